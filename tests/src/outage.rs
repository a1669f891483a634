//! What a series of pings tells: how long nobody answered, and who did.

use std::collections::HashSet;
use std::time::Duration;

use crate::clock::BootTime;
use crate::packet::MacAddr;
use crate::probe::Answer;

/// The outcome of a [`crate::Probe`].
#[derive(Clone, Debug)]
pub struct ProbeReport {
    period: Duration,
    /// When each ping was sent.
    sent: Vec<BootTime>,
    stopped: BootTime,
    /// In the order of their arrival, the first one for each ping.
    answers: Vec<Answer>,
}

/// A time without answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    /// The last answer before it.
    pub start: BootTime,
    /// The first answer after it; if none came, the end of the pinging.
    pub end: BootTime,
    /// Whether an answer came after it.
    pub ended: bool,
}

impl Outage {
    /// How long it was.
    pub fn duration(&self) -> Duration {
        self.end.since(self.start)
    }
}

/// Answers in a row from one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answering {
    /// The host.
    pub mac: MacAddr,
    /// Its first answer.
    pub from: BootTime,
    /// Its last answer before another host's.
    pub to: BootTime,
    /// How many they were.
    pub answers: usize,
}

impl ProbeReport {
    pub(crate) fn new(period: Duration, sent: Vec<BootTime>, stopped: BootTime, mut answers: Vec<Answer>) -> Self {
        answers.sort_by_key(|answer| answer.at);
        let mut seen = HashSet::new();
        answers.retain(|answer| seen.insert(answer.sequence));
        Self { period, sent, stopped, answers }
    }

    /// How many pings were sent.
    pub fn sent(&self) -> usize {
        self.sent.len()
    }

    /// How many of them were answered.
    pub fn answered(&self) -> usize {
        self.answers.len()
    }

    /// How many that were sent from this time on have no answer.
    pub fn lost_since(&self, moment: BootTime) -> usize {
        let first = self.sent.partition_point(|&sent| sent < moment);
        let answered = self.answers.iter().filter(|answer| answer.sequence >= first as u64).count();
        self.sent.len() - first - answered
    }

    /// The times of more than two periods without an answer, although at least
    /// two pings sent in that time went unanswered (or were answered after it,
    /// as those that waited for ARP are). So a sender that did not get the CPU
    /// for a while makes no outage. What was before the first answer is none
    /// either; if there is no answer at all, everything is one.
    pub fn outages(&self) -> Vec<Outage> {
        let Some(&first_ping) = self.sent.first() else {
            return Vec::new();
        };
        let Some(last) = self.answers.last() else {
            return vec![Outage { start: first_ping, end: self.stopped, ended: false }];
        };
        let between = self.answers.windows(2).filter_map(|pair| {
            // Of the pings in between, the answered one is the answer's own.
            let unanswered = self.pings_between(pair[0].at, pair[1].at).saturating_sub(1);
            self.outage(pair[0].at, pair[1].at, true, unanswered)
        });
        let unanswered = self.pings_between(last.at, self.stopped);
        let at_the_end = self.outage(last.at, self.stopped, false, unanswered);
        between.chain(at_the_end).collect()
    }

    /// The longest outage, zero if there was none.
    pub fn longest_outage(&self) -> Duration {
        self.outages().iter().map(Outage::duration).max().unwrap_or_default()
    }

    /// Which host answered, and when it changed.
    pub fn answered_by(&self) -> Vec<Answering> {
        let runs = self.answers.chunk_by(|one, next| one.mac == next.mac);
        runs.filter_map(|run| {
            let (first, last) = (run.first()?, run.last()?);
            Some(Answering { mac: first.mac, from: first.at, to: last.at, answers: run.len() })
        })
        .collect()
    }

    /// Every answer, in the order of their arrival.
    pub fn answers(&self) -> &[Answer] {
        &self.answers
    }

    fn outage(&self, start: BootTime, end: BootTime, ended: bool, unanswered: usize) -> Option<Outage> {
        let outage = Outage { start, end, ended };
        (outage.duration() > 2 * self.period && unanswered >= 2).then_some(outage)
    }

    fn pings_between(&self, start: BootTime, end: BootTime) -> usize {
        let before = |moment| self.sent.partition_point(|&sent| sent < moment);
        before(end).saturating_sub(before(start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_millis(1);
    const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    /// Pings sent at these milliseconds; `answer` tells who answered the ping
    /// of that millisecond, and after how many milliseconds.
    fn report(pings: &[u64], answer: impl Fn(u64) -> Option<(MacAddr, u64)>) -> ProbeReport {
        let start = BootTime::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let sent = pings.iter().map(|&ping| at(ping)).collect();
        let answers = pings.iter().zip(0..).filter_map(|(&ping, sequence)| {
            let (mac, delay) = answer(ping)?;
            Some(Answer { sequence, at: at(ping + delay) + PERIOD / 10, mac })
        });
        let stopped = at(pings.last().map_or(0, |last| last + 1));
        ProbeReport::new(PERIOD, sent, stopped, answers.collect())
    }

    fn every_ms(to: u64) -> Vec<u64> {
        (0..to).collect()
    }

    #[test]
    fn prompt_answers_are_no_outage() {
        let report = report(&every_ms(100), |_| Some((A, 0)));
        assert_eq!((report.sent(), report.answered()), (100, 100));
        assert_eq!(report.outages(), []);
        assert_eq!(report.longest_outage(), Duration::ZERO);
    }

    #[test]
    fn a_single_lost_ping_is_no_outage_but_two_are() {
        assert_eq!(report(&every_ms(9), |ms| (ms != 4).then_some((A, 0))).outages(), []);
        let two = report(&every_ms(9), |ms| (ms != 4 && ms != 5).then_some((A, 0)));
        assert_eq!(two.longest_outage(), Duration::from_millis(3));
    }

    #[test]
    fn a_sender_that_slept_makes_no_outage() {
        let pings = [every_ms(10), vec![60, 61, 62]].concat();
        assert_eq!(report(&pings, |_| Some((A, 0))).outages(), []);
    }

    #[test]
    fn pings_that_waited_for_their_answers_make_an_outage() {
        let late = |ms| if (10..50).contains(&ms) { 50 - ms } else { 0 };
        let report = report(&every_ms(100), |ms| Some((A, late(ms))));
        assert_eq!(report.answered(), 100);
        assert_eq!(report.longest_outage(), Duration::from_millis(41));
    }

    #[test]
    fn late_answers_are_answers() {
        let report = report(&every_ms(100), |ms| (ms != 30 && ms != 60).then_some((A, 50)));
        let since = |ping: usize| report.lost_since(report.sent[ping]);
        assert_eq!([0, 30, 31, 60, 61].map(since), [2, 2, 1, 1, 0]);
    }

    #[test]
    fn an_outage_that_does_not_end_counts_up_to_the_last_ping() {
        let report = report(&every_ms(100), |ms| (ms < 40).then_some((A, 0)));
        let outages = report.outages();
        assert_eq!(outages.len(), 1);
        assert!(!outages[0].ended);
        assert!(outages[0].duration() > Duration::from_millis(60));
    }

    #[test]
    fn without_any_answer_all_is_one_outage() {
        let report = report(&every_ms(100), |_| None);
        assert_eq!(report.longest_outage(), Duration::from_millis(100));
    }

    #[test]
    fn answering_hosts_are_told_in_turn() {
        let by = |ms| if (30..60).contains(&ms) { B } else { A };
        let report = report(&every_ms(100), |ms| Some((by(ms), 0)));
        let turns: Vec<_> = report.answered_by().iter().map(|t| (t.mac, t.answers)).collect();
        assert_eq!(turns, [(A, 30), (B, 30), (A, 40)]);
    }
}
