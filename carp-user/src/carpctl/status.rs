//! How things stand, for people.

use std::{collections::BTreeMap, fmt::Write, net::IpAddr, time::Duration};

use crate::control::protocol::{Demotion, Event, Rollout, Source, Status, VirtualHost, What};

/// The table of `carpctl status`, and what is to be said besides.
pub(super) fn table(status: &Status) -> String {
    let mut text = columns(&rows(status));
    // Writing to a String cannot fail.
    for host in &status.virtual_hosts {
        for trouble in &host.troubles {
            writeln!(text, "! {}: {trouble}", name(host)).ok();
        }
    }
    for host in &status.virtual_hosts {
        if let Some(Rollout { from, until }) = &host.rollout {
            let from: Vec<_> = from.iter().map(IpAddr::to_string).collect();
            let what = format!("adverts for {} are sent and accepted, too", from.join(" "));
            writeln!(text, "  {}: rollout until {until}: {what}", name(host)).ok();
        }
    }
    let mut hints: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for host in &status.virtual_hosts {
        for hint in &host.hints {
            hints.entry(hint).or_default().push(name(host));
        }
    }
    for (hint, names) in hints {
        let names = if names.len() > 3 { format!("{} virtual hosts", names.len()) } else { names.join(", ") };
        writeln!(text, "  {names}: {hint}").ok();
    }
    if status.maintenance {
        text += "! in maintenance: this server is the last resort, until `carpctl maintenance off`\n";
    }
    text
}

/// The table's head, and a line for each virtual host.
pub(super) fn rows(status: &Status) -> Vec<Vec<String>> {
    let head = ["INTERFACE", "VHID", "STATE", "FOR", "BASE/SKEW", "DEMOTED", "ADDRESSES", "LAST HEARD", "ROAD", "WHY"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(status.virtual_hosts.iter().map(|host| {
        let heard = host
            .heard
            .as_ref()
            .map_or_else(|| "-".to_owned(), |heard| format!("{} {} ago", heard.address, short(heard.seconds)));
        vec![
            host.interface.clone(),
            host.vhid.to_string(),
            host.state.clone(),
            short(host.seconds),
            format!("{}/{}", host.advbase, host.advskew),
            demotion(&host.demotion),
            host.addresses.join(" "),
            heard,
            host.datapath.clone().unwrap_or_else(|| "-".to_owned()),
            host.cause.clone(),
        ]
    }));
    rows
}

/// By how much, and for what.
fn demotion(demotion: &Demotion) -> String {
    let counts = |source: &&Source| source.by > 0;
    let sources: Vec<&str> = demotion.sources.iter().filter(counts).map(|source| source.source.as_str()).collect();
    if sources.is_empty() {
        return demotion.total.to_string();
    }
    format!("{} ({})", demotion.total, sources.join(", "))
}

/// All counters that are not 0.
pub(super) fn counters(status: &Status) -> String {
    let mut rows = vec![["INTERFACE", "VHID", "COUNTER", "FRAMES", "LAST FROM"].map(str::to_owned).to_vec()];
    for host in &status.virtual_hosts {
        let own = [("sent", host.sent), ("lost", host.lost)].into_iter().filter(|(_, count)| *count > 0);
        let own = own.map(|(counter, count)| (counter, count, String::new()));
        let received = host.received.iter().map(|(reason, count)| {
            let from = host.refused.get(reason).map(|last| format!("{} ({})", last.address, last.mac));
            (reason.as_str(), *count, from.unwrap_or_default())
        });
        rows.extend(own.chain(received).map(|(counter, count, from)| {
            vec![host.interface.clone(), host.vhid.to_string(), counter.to_owned(), count.to_string(), from]
        }));
    }
    rows.extend(
        status.received_for_none.iter().map(|(reason, count)| {
            vec!["-".to_owned(), "-".to_owned(), reason.clone(), count.to_string(), String::new()]
        }),
    );
    columns(&rows)
}

/// Whether every virtual host works, and nothing is wrong.
pub(super) fn is_well(status: &Status) -> bool {
    status.virtual_hosts.iter().all(|host| host.state != "INIT" && host.troubles.is_empty())
}

/// An event in a line.
pub(super) fn line(event: &Event) -> String {
    match &event.what {
        What::Transition { interface, vhid, from, to, cause } => {
            format!("{}  {interface} vhid {vhid}: {from} -> {to}, {cause}", event.time)
        }
        What::Alarm { severity, text } => format!("{}  {severity}: {text}", event.time),
    }
}

fn name(host: &VirtualHost) -> String {
    format!("{} vhid {}", host.interface, host.vhid)
}

/// A span in its two largest units.
fn short(seconds: f64) -> String {
    let seconds = Duration::try_from_secs_f64(seconds).unwrap_or_default().as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// Rows of as many columns, each as wide as its widest cell.
pub(super) fn columns(rows: &[Vec<String>]) -> String {
    let mut text = String::new();
    let widths = widths(rows);
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        let cells: Vec<_> = cells.collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// How wide each column is.
pub(super) fn widths(rows: &[Vec<String>]) -> Vec<usize> {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    (0..count).map(|column| width(column).unwrap_or(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_told_in_its_two_largest_units() {
        let spans = [0.4, 59.9, 61.0, 3_599.0, 3_600.0, 86_399.0, 90_000.0, f64::NAN, -1.0].map(short);
        assert_eq!(spans, ["0s", "59s", "1m1s", "59m59s", "1h0m", "23h59m", "1d1h", "0s", "0s"]);
    }

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let rows = [["A", "BB"], ["longer", "b"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(columns(&rows), "A       BB\nlonger  b\n");
    }
}
