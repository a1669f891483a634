//! The XDP program and the egress program in the kernel, run frame by frame with `BPF_PROG_TEST_RUN`. Needs root.
//!
//! Each test loads a program of its own, so they run in any order and side by side.

mod xdp_support;

/// One topic a file.
mod xdp_cases {
    mod agreement;
    mod bpftool;
    mod events;
    mod fence;
    mod seals;
    mod table;
    mod vectors;
}
