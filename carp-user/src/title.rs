//! Keeps the passphrase out of the process title, where `ps` shows it to everybody.

use std::{
    fs::{self, OpenOptions},
    io, mem,
    os::unix::fs::FileExt,
};

use zeroize::Zeroizing;

use crate::cli::Value;

/// Fields of /proc/self/stat after the command's name: begin and end of the arguments in memory (48 and 49
/// of proc_pid_stat(5), of which two stand before the name's closing parenthesis).
const ARG_START: usize = 48 - 3;

/// Overwrites the passphrase wherever one is among the arguments.
pub(crate) fn hide_passphrases() -> io::Result<()> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let field = |at: usize| fields.get(at).and_then(|field| field.parse().ok()).ok_or(io::ErrorKind::InvalidData);
    let (start, end): (u64, u64) = (field(ARG_START)?, field(ARG_START + 1)?);

    let memory = OpenOptions::new().read(true).write(true).open("/proc/self/mem")?;
    let mut arguments = Zeroizing::new(vec![0; end.saturating_sub(start) as usize]);
    memory.read_exact_at(&mut arguments, start)?;
    mask(&mut arguments);
    memory.write_all_at(&arguments, start)
}

/// Masks the value of every `--pass` among NUL-terminated arguments, in each form that getopt takes, also of
/// those that a later option overrides: `--pass=secret`, `--pass secret`, `-psecret`, `-p secret`, `-Ppsecret`.
pub(crate) fn mask(arguments: &mut [u8]) {
    // What the next argument is.
    let mut is_value = false;
    let mut is_passphrase = false;
    for argument in arguments.split_mut(|byte| *byte == 0).skip(1) {
        if mem::take(&mut is_value) {
            if mem::take(&mut is_passphrase) {
                argument.fill(b'x');
            }
            continue;
        }
        let Some(Value { at, is_next, is_pass }) = Value::of(argument) else { continue };
        if is_next {
            (is_value, is_passphrase) = (true, is_pass);
        } else if is_pass {
            argument[at..].fill(b'x');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::mask;

    #[test]
    fn a_passphrase_is_masked_in_every_form_that_an_option_takes_and_nothing_else() {
        for (given, masked) in [
            ("--pass=pw", "--pass=xx"),
            ("--pas=pw", "--pas=xx"),
            ("--pass\0pw\0-b1", "--pass\0xx\0-b1"),
            ("-ppw", "-pxx"),
            ("-p=pw", "-pxxx"),
            ("-Bppw\0--pass=\0-v1", "-Bpxx\0--pass=\0-v1"),
            ("-p\0-pw\0-p\0again\0--passfile=p", "-p\0xxx\0-p\0xxxxx\0--passfile=p"),
            // The interface's name is "-x".
            ("--interface\0-x\0--pass=pw\0-i\0--pass\0-ppw", "--interface\0-x\0--pass=xx\0-i\0--pass\0-pxx"),
            ("-v\x31\0--vhid=1\0-i\0-p\0-x-p\0-P\0--preempt", "-v\x31\0--vhid=1\0-i\0-p\0-x-p\0-P\0--preempt"),
        ] {
            let mut arguments = format!("carpd\0{given}\0").into_bytes();
            mask(&mut arguments);
            assert_eq!(String::from_utf8(arguments).unwrap(), format!("carpd\0{masked}\0"));
        }
    }
}
