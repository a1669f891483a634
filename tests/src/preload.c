/* What is loaded into a program before its C library. The test's orders are in the file that CARP_TEST_PRELOAD names. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* As in preload.rs. */
static const volatile struct {
    int64_t ahead;   /* of the wall clock: seconds */
    int64_t refusal; /* the error of each frame that is to be sent, 0 for none */
} *orders;

__attribute__((constructor)) static void map_the_orders(void)
{
    const char *path = getenv("CARP_TEST_PRELOAD");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *mapped = mmap(NULL, sizeof(*orders), PROT_READ, MAP_SHARED, file, 0);

    if (mapped == MAP_FAILED)
        abort();
    close(file);
    orders = mapped;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int failed = (int)syscall(SYS_clock_gettime, clock, now);

    if (!failed && clock == CLOCK_REALTIME)
        now->tv_sec += orders->ahead;
    return failed;
}

ssize_t sendto(int socket, const void *frame, size_t length, int flags, const struct sockaddr *to, socklen_t to_length)
{
    int refusal = (int)orders->refusal;

    if (refusal && to && to->sa_family == AF_PACKET) {
        errno = refusal;
        return -1;
    }
    return syscall(SYS_sendto, socket, frame, length, flags, to, to_length);
}
