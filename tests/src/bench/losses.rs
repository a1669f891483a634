//! How many adverts of a master its backup has not heard, by their own accounts.

use std::{fmt, time::Duration};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::clock::BootTime;

/// For how long it is tried to count adverts more closely.
const TRIED: Duration = Duration::from_secs(3);

/// Adverts that a program has counted since it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adverts {
    /// When it told.
    pub at: BootTime,
    /// Those that it has sent.
    pub sent: i64,
    /// Genuine ones that it has heard.
    pub heard: i64,
}

impl Adverts {
    /// From carpd's line about its state.
    pub(super) fn of_carpd(at: BootTime, line: &str) -> Result<Self> {
        let (_, counters) = line.split_once("adverts sent: ").context("without adverts sent")?;
        let (sent, received) = counters.split_once("; received: ").context("without adverts received")?;
        // Only a counter that is 0 is left out.
        let heard = received.split(", ").find_map(|counter| counter.strip_prefix("ipackets "));
        Ok(Self { at, sent: sent.parse()?, heard: heard.map_or(Ok(0), str::parse)? })
    }
}

/// Adverts of a master that its backup has not heard, by their own accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unheard {
    /// How many the master had sent by then, at least.
    sent: i64,
    /// So many of them were not heard: at least and at most, for some may be sent while both are asked.
    least: i64,
    most: i64,
}

/// Adverts that were lost in a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// At most so many; fewer than none, if more were heard than sent.
    pub lost: i64,
    /// Of so many.
    pub of: i64,
}

impl Unheard {
    /// Asks the master, the backup, and the master again.
    pub fn ask(sent: impl Fn() -> Result<i64>, heard: impl FnOnce() -> Result<i64>) -> Result<Self> {
        let (before, heard, after) = (sent()?, heard()?, sent()?);
        Ok(Self { sent: before, least: before - heard, most: after - heard })
    }

    /// Before a span, when nothing is under way: asks until nothing is sent meanwhile, or for some seconds.
    pub fn before(mut ask: impl FnMut() -> Result<Self>) -> Result<Self> {
        let (begin, mut closest) = (BootTime::now(), ask()?);
        while closest.least < closest.most && BootTime::now().since(begin) < TRIED {
            let next = ask()?;
            if next.most - next.least < closest.most - closest.least {
                closest = next;
            }
        }
        Ok(closest)
    }

    /// What was lost since then. What is under way looks as if it was lost, and what is lost is never heard: so it asks
    /// until nothing is missing, or for some seconds, and the fewest that were missing are the most that can be lost.
    pub fn lost_since(self, ask: impl FnMut() -> Result<Self>) -> Result<Lost> {
        self.lost(TRIED, ask)
    }

    fn lost(self, tried: Duration, mut ask: impl FnMut() -> Result<Self>) -> Result<Lost> {
        let begin = BootTime::now();
        let lost = |now: Self| Lost { lost: now.most - self.least, of: now.sent - self.sent };
        let mut fewest = lost(ask()?);
        while fewest.lost > 0 && BootTime::now().since(begin) < tried {
            let next = lost(ask()?);
            if next.lost < fewest.lost {
                fewest = next;
            }
        }
        Ok(fewest)
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.lost, self.of)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn adverts_that_were_sent_are_told_always_and_those_that_were_heard_unless_there_are_none() {
        let at = BootTime::now();
        let told = |rest: &str| Adverts::of_carpd(at, &format!("eth0 vhid 1: BACKUP for 3 s, demotion 0, {rest}"));
        let heard = told("last advert heard 0.1 s ago; adverts sent: 7; received: ipackets6 9, ipackets 12, badauth 3");
        assert_eq!(heard.unwrap(), Adverts { at, sent: 7, heard: 12 });
        assert_eq!(
            told("no advert heard; adverts sent: 0; received: none").unwrap(),
            Adverts { at, sent: 0, heard: 0 }
        );
        told("no advert heard; sent: 0; received: none").unwrap_err();
        told("no advert heard; adverts sent: 0").unwrap_err();
        told("no advert heard; adverts sent: 0; received: ipackets many").unwrap_err();
    }

    #[test]
    fn an_advert_that_is_sent_while_they_are_asked_hides_no_loss() {
        let (sent, heard) = (Cell::new(100), Cell::new(40));
        let ask = || Unheard::ask(|| Ok(sent.get()), || Ok(heard.get()));
        let before = Unheard::before(ask).unwrap();
        assert_eq!(before, Unheard { sent: 100, least: 60, most: 60 });
        // One is lost, and one is heard between the questions, and the next time it is quiet.
        sent.set(110);
        heard.set(49);
        let asked = Cell::new(0);
        let busy_once = || {
            asked.set(asked.get() + 1);
            let heard_then = || {
                if asked.get() == 1 {
                    sent.set(111);
                    heard.set(50);
                }
                Ok(heard.get())
            };
            Unheard::ask(|| Ok(sent.get()), heard_then)
        };
        assert_eq!(busy_once().unwrap(), Unheard { sent: 110, least: 60, most: 61 });
        assert_eq!(before.lost(Duration::ZERO, busy_once).unwrap(), Lost { lost: 1, of: 11 });
        heard.set(52);
        assert_eq!(before.lost(Duration::ZERO, ask).unwrap().to_string(), "-1 of 11");
    }
}
