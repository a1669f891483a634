//! Keeps the passphrase out of the process title, where `ps` shows it to everybody.

use std::{
    ffi::OsStr,
    fs::{self, OpenOptions},
    io,
    os::unix::{ffi::OsStrExt, fs::FileExt},
};

/// Fields of /proc/self/stat after the command's name: begin and end of the arguments in memory (48 and 49
/// of proc_pid_stat(5), of which two stand before the name's closing parenthesis).
const ARG_START: usize = 48 - 3;

/// Overwrites every argument, or end of one, that is `secret`.
pub(crate) fn hide(secret: &OsStr) -> io::Result<()> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let field = |at: usize| fields.get(at).and_then(|field| field.parse().ok()).ok_or(io::ErrorKind::InvalidData);
    let (start, end): (u64, u64) = (field(ARG_START)?, field(ARG_START + 1)?);

    let memory = OpenOptions::new().read(true).write(true).open("/proc/self/mem")?;
    let mut arguments = vec![0; end.saturating_sub(start) as usize];
    memory.read_exact_at(&mut arguments, start)?;
    mask(&mut arguments, secret.as_bytes());
    memory.write_all_at(&arguments, start)
}

/// Masks `secret` where it ends one of the NUL-terminated arguments: `--pass=secret`, `-psecret`, `secret`.
fn mask(arguments: &mut [u8], secret: &[u8]) {
    if secret.is_empty() {
        return;
    }
    for argument in arguments.split_mut(|byte| *byte == 0).skip(1) {
        if argument.ends_with(secret) {
            let begin = argument.len() - secret.len();
            argument[begin..].fill(b'x');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::mask;

    #[test]
    fn the_passphrase_is_masked_in_every_form_that_an_option_takes() {
        let mut arguments = *b"carpd\0--pass=pw\0-ppw\0-p\0pw\0--addr=1\0";
        mask(&mut arguments, b"pw");
        assert_eq!(&arguments, b"carpd\0--pass=xx\0-pxx\0-p\0xx\0--addr=1\0");
    }
}
