//! The keys that say what demotes a virtual host and what holds it back, and the scripts that they name.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use carp_common::engine::Profile;
use serde::Deserialize;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{Reader, Section};
use crate::config::{
    SCRIPT_SECONDS, executable,
    failover::{Check, DELAY_SECONDS, DEMOTE, DEMOTE_DEFAULT, Failover, Script, TrackedInterface},
};

/// What can stand in `[defaults]` and in a virtual host's table.
pub(in crate::config::file) const KEYS: [&str; 7] = [
    "profile",
    "failover_group",
    "track_interfaces",
    "track_scripts",
    "preempt_delay",
    "startup_delay",
    "ready_script",
];
/// What stands in a `[script.NAME]`.
pub(in crate::config::file) const SCRIPT_KEYS: [&str; 6] = ["command", "interval", "timeout", "rise", "fall", "demote"];
const INTERFACE_KEYS: [&str; 2] = ["name", "demote"];

/// Longest name of a script or a group, in bytes: it stands in log lines and in metrics.
const MAX_NAME: usize = 64;

/// The scripts by name; `None` for one with a mistake, which is known all the same.
pub(super) type Scripts = BTreeMap<String, Option<Arc<Script>>>;

/// [`Profile`] as it is written.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ProfileName {
    OpenBsd,
    FreeBsd,
}

impl Reader<'_> {
    /// The scripts of a file, for virtual hosts to name.
    pub(super) fn scripts(&mut self, root: &DeTable<'_>) -> Scripts {
        let Some(all) = root.get("script") else { return Scripts::new() };
        let Some(tables) = all.get_ref().as_table() else {
            self.note(all.span(), "`script` has a table for each script: [script.NAME]");
            return Scripts::new();
        };
        let mut scripts = Scripts::new();
        for (key, table) in tables {
            let name = key.get_ref();
            if !is_name(name) {
                self.note(
                    key.span(),
                    format!("script: {name:?} cannot be a name: {MAX_NAME} bytes, no control characters"),
                );
            }
            let script = match table.get_ref().as_table() {
                Some(own) => self.script(name, Section { own, defaults: None, at: table.span().start }),
                None => {
                    self.note(table.span(), format!("script: `{}` is a table: [script.NAME]", name.escape_debug()));
                    None
                }
            };
            scripts.insert(name.to_string(), script.map(Arc::new));
        }
        scripts
    }

    fn script(&mut self, name: &str, section: Section<'_>) -> Option<Script> {
        self.look_at_keys(section.own, &[&SCRIPT_KEYS]);
        let command = self.needed::<Vec<String>>(section, "command");
        let interval = self.seconds(section, "interval", SCRIPT_SECONDS, 1);
        // As long as it takes until the next one would begin.
        let unless_given = interval.map_or(1, |interval| interval.as_secs() as i64);
        let time_limit = self.seconds(section, "timeout", SCRIPT_SECONDS, unless_given);
        let in_a_row = |number: u8| (number > 0).then_some(number);
        let [rise, fall] = ["rise", "fall"].map(|key| self.number(section, key, 1..=u8::MAX, in_a_row, 1));
        let demote = self.demote(section);
        let command = command?;
        let Some((program, arguments)) = command.get_ref().split_first() else {
            self.note(command.span(), "command: at least the program");
            return None;
        };
        let program = executable(&self.surroundings.folder.join(program));
        let program = program.map_err(|error| self.note(command.span(), format!("command: {error:#}"))).ok();
        let check = Check {
            program: program?,
            arguments: arguments.to_vec(),
            interval: interval?,
            time_limit: time_limit?,
            rise: rise?,
            fall: fall?,
        };
        Some(Script { name: name.to_owned(), check, demote: demote? })
    }

    /// What a virtual host says of it.
    pub(super) fn failover(&mut self, section: Section<'_>) -> Option<Failover> {
        let profile = self.given::<ProfileName>(section, "profile").map(Spanned::into_inner);
        let group = self.given::<String>(section, "failover_group").filter(|name| {
            let is_name = is_name(name.get_ref());
            if !is_name {
                self.note(name.span(), format!("failover_group: 1 to {MAX_NAME} bytes, no control characters"));
            }
            is_name
        });
        let interfaces = self.tracked_interfaces(section);
        let scripts = self.tracked_scripts(section);
        let [preempt_delay, startup_delay] =
            ["preempt_delay", "startup_delay"].map(|key| self.seconds(section, key, DELAY_SECONDS, 0));
        let ready = self.given::<String>(section, "ready_script");
        let ready = ready.and_then(|name| self.named_script("ready_script", &name));
        Some(Failover {
            profile: match profile {
                Some(ProfileName::FreeBsd) => Profile::FreeBsd,
                Some(ProfileName::OpenBsd) | None => Profile::OpenBsd,
            },
            group: group.map(Spanned::into_inner),
            interfaces,
            scripts,
            preempt_delay: preempt_delay?,
            startup_delay: startup_delay?,
            ready,
        })
    }

    fn tracked_interfaces(&mut self, section: Section<'_>) -> Vec<TrackedInterface> {
        let Some(found) = section.get("track_interfaces") else { return vec![] };
        let Some(tables) = found.get_ref().as_array() else {
            self.note(found.span(), "track_interfaces: is to be a list: [{ name = \"eth1\" }]");
            return vec![];
        };
        let mut interfaces: Vec<TrackedInterface> = vec![];
        for table in tables {
            let Some((interface, span)) = self.tracked_interface(table) else { continue };
            if interfaces.iter().any(|known| known.name == interface.name) {
                self.note(span, format!("track_interfaces: {} is there twice", interface.name));
            }
            interfaces.push(interface);
        }
        interfaces
    }

    fn tracked_interface(&mut self, table: &Spanned<DeValue<'_>>) -> Option<(TrackedInterface, Range<usize>)> {
        let Some(own) = table.get_ref().as_table() else {
            self.note(table.span(), "track_interfaces: an interface is a table: { name = \"eth1\", demote = 240 }");
            return None;
        };
        self.look_at_keys(own, &[&INTERFACE_KEYS]);
        let section = Section { own, defaults: None, at: table.span().start };
        let (name, demote) = (self.needed::<String>(section, "name"), self.demote(section));
        let name = self.interface_name("name", name?)?;
        let span = name.span();
        Some((TrackedInterface { name: name.into_inner(), demote: demote? }, span))
    }

    fn tracked_scripts(&mut self, section: Section<'_>) -> Vec<Arc<Script>> {
        let found = self.given::<Vec<Spanned<String>>>(section, "track_scripts");
        let mut scripts: Vec<Arc<Script>> = vec![];
        for name in found.map(Spanned::into_inner).unwrap_or_default() {
            let Some(script) = self.named_script("track_scripts", &name) else { continue };
            if scripts.iter().any(|known| known.name == script.name) {
                self.note(name.span(), format!("track_scripts: {} is there twice", script.name));
            }
            scripts.push(script);
        }
        scripts
    }

    /// Warns of scripts that are never run.
    pub(super) fn warn_of_unnamed_scripts(&mut self, root: &DeTable<'_>) {
        let tables = root.get("script").and_then(|all| all.get_ref().as_table());
        for (key, _) in tables.into_iter().flatten().filter(|(key, _)| self.unnamed.contains(key.get_ref().as_ref())) {
            let what = format!("script: no virtual host names `{}`, so it is never run", key.get_ref().escape_debug());
            self.warnings.insert((key.span().start, what));
        }
    }

    fn named_script(&mut self, key: &str, name: &Spanned<String>) -> Option<Arc<Script>> {
        self.unnamed.remove(name.get_ref());
        match self.scripts.get(name.get_ref()) {
            Some(script) => script.clone(),
            None => {
                self.note(name.span(), format!("{key}: there is no [script.{}]", name.get_ref().escape_debug()));
                None
            }
        }
    }

    fn demote(&mut self, section: Section<'_>) -> Option<u8> {
        let new = |demote| DEMOTE.contains(&demote).then_some(demote);
        self.number(section, "demote", DEMOTE, new, DEMOTE_DEFAULT)
    }
}

fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len()) && !name.contains(char::is_control)
}
