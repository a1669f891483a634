//! Writes the manual pages and the shells' completions of both programs into a folder, for a package:
//! `cargo run --package carp-user --example manuals -- FOLDER`

use std::{env, fs, path::Path};

use anyhow::{Context, Result};
use clap::Command;
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;

/// What the command lines do not tell: the rest of each program's page.
const CARPD: &str = include_str!("manuals/carpd.roff");
const CARPCTL: &str = include_str!("manuals/carpctl.roff");

fn main() -> Result<()> {
    let folder = env::args_os().nth(1).context("which folder?")?;
    let folder = Path::new(&folder);
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for (command, more) in carp_user::command_lines().into_iter().zip([CARPD, CARPCTL]) {
        let name = command.get_name().to_owned();
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            generate_to(shell, &mut command.clone(), &name, folder)?;
        }
        // Each subcommand has a page of its own, to which the program's refers.
        let mut command = command.disable_help_subcommand(true);
        command.build();
        for subcommand in command.get_subcommands() {
            write_page(folder, subcommand, &format!(".SH SEE ALSO\n.BR {name} (8)\n"))?;
        }
        write_page(folder, &command, more)?;
    }
    Ok(())
}

/// Writes a page of section 8.
fn write_page(folder: &Path, command: &Command, more: &str) -> Result<()> {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let man = Man::new(command.clone())
        .title(name.to_uppercase())
        .section("8")
        .source(concat!("carp ", env!("CARGO_PKG_VERSION")))
        .manual("System administration");
    let mut page = vec![];
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    page.extend_from_slice(more.as_bytes());
    let path = folder.join(format!("{name}.8"));
    fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))
}
