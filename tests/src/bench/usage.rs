//! What processes and the machine have used, by the kernel's account.

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::{Context, Result};

/// What some processes have used since they began, and have now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// CPU time of all threads.
    pub cpu: Duration,
    /// How many times one of them got a CPU.
    pub wakeups: u64,
    /// Resident memory in MB, what they share counted in each.
    pub resident_mb: f64,
    /// The same, what is shared divided among those who share it.
    pub proportional_mb: f64,
}

impl Usage {
    /// Of these processes.
    pub fn of(processes: &[u32]) -> Result<Self> {
        processes.iter().try_fold(Self::default(), |sum, process| {
            let one = Self::of_one(*process).with_context(|| format!("measuring the process {process}"))?;
            Ok(Self {
                cpu: sum.cpu + one.cpu,
                wakeups: sum.wakeups + one.wakeups,
                resident_mb: sum.resident_mb + one.resident_mb,
                proportional_mb: sum.proportional_mb + one.proportional_mb,
            })
        })
    }

    fn of_one(process: u32) -> Result<Self> {
        let (mut nanos, mut wakeups) = (0, 0);
        for task in fs::read_dir(format!("/proc/{process}/task"))? {
            // Nanoseconds on a CPU, nanoseconds waiting for one, and how many times it got one.
            let text = fs::read_to_string(task?.path().join("schedstat"))?;
            let numbers: Vec<u64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
            let [on_cpu, _, times] = numbers[..] else { anyhow::bail!("a strange schedstat: {text}") };
            nanos += on_cpu;
            wakeups += times;
        }
        let memory = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
        let megabytes = |name: &str| -> Result<f64> {
            let line = memory.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
            Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1000.0)
        };
        let (resident_mb, proportional_mb) = (megabytes("Rss:")?, megabytes("Pss:")?);
        Ok(Self { cpu: Duration::from_nanos(nanos), wakeups, resident_mb, proportional_mb })
    }
}

/// Memory of the kernel in MB, like [`Usage`]'s: of BPF maps and programs that these processes hold open, each counted
/// once.
pub fn bpf_mb(processes: &[u32]) -> Result<f64> {
    let mut objects = BTreeMap::new();
    for process in processes {
        let folder = format!("/proc/{process}/fdinfo");
        for entry in fs::read_dir(&folder).with_context(|| format!("reading {folder}"))? {
            // A descriptor that has just been closed is none.
            let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
            objects.extend(bpf_object(&text).with_context(|| format!("a strange descriptor: {text}"))?);
        }
    }
    Ok(objects.into_values().sum::<u64>() as f64 / 1024.0 / 1000.0)
}

/// Which BPF map or program a descriptor is, and how many bytes it takes, if it is one.
fn bpf_object(fdinfo: &str) -> Result<Option<((&'static str, u64), u64)>> {
    let number = |name: &str| fdinfo.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    let Some(bytes) = number("memlock:") else { return Ok(None) };
    let id = ["map_id:", "prog_id:"].into_iter().find_map(|name| Some((name, number(name)?)));
    Ok(Some((id.context("neither a map nor a program")?, bytes)))
}

/// What all CPUs together have done since the machine was started, in ticks.
#[derive(Clone, Copy, Debug)]
pub struct MachineTime {
    /// With what was stolen.
    busy: u64,
    /// What its host gave to others meanwhile.
    stolen: u64,
    all: u64,
}

impl MachineTime {
    /// Until now.
    pub fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("reading the machine's CPU time")?;
        let line = text.lines().next().and_then(|line| line.strip_prefix("cpu ")).context("no CPUs")?;
        let ticks: Vec<u64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let [user, nice, system, idle, iowait, irq, softirq, steal, ..] = ticks[..] else {
            anyhow::bail!("a strange /proc/stat: {line}")
        };
        let busy = user + nice + system + irq + softirq + steal;
        Ok(Self { busy, stolen: steal, all: busy + idle + iowait })
    }

    /// How much of all CPUs was busy since then, in percent.
    pub fn busy_since(self, earlier: Self) -> f64 {
        percent(self.busy - earlier.busy, self.all - earlier.all)
    }

    /// How much of the CPU time that was wanted since then was not had, for the machine is virtual and its host had others to
    /// serve, in percent.
    pub fn stolen_since(self, earlier: Self) -> f64 {
        percent(self.stolen - earlier.stolen, self.busy - earlier.busy)
    }
}

fn percent(part: u64, of: u64) -> f64 {
    part as f64 / of.max(1) as f64 * 100.0
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn maps_and_programs_are_told_by_their_descriptors() {
        let map = "pos:\t0\nmap_type:\t2\nmax_entries:\t8\nmemlock:\t4096\nmap_id:\t5\nfrozen:\t0\n";
        assert_eq!(bpf_object(map).unwrap(), Some((("map_id:", 5), 4096)));
        let program = "pos:\t0\nprog_type:\t6\nprog_jited:\t1\nmemlock:\t12288\nprog_id:\t5\n";
        assert_eq!(bpf_object(program).unwrap(), Some((("prog_id:", 5), 12288)));
        // A link names a program, too, and takes nothing itself.
        assert_eq!(bpf_object("pos:\t0\nlink_type:\txdp\nlink_id:\t3\nprog_id:\t5\n").unwrap(), None);
        bpf_object("memlock:\t4096\n").unwrap_err();
        assert!(bpf_mb(&[std::process::id()]).unwrap() >= 0.0);
    }

    #[test]
    fn who_computes_is_busy() {
        let own = [std::process::id()];
        let (before, machine, begin) = (Usage::of(&own).unwrap(), MachineTime::now().unwrap(), Instant::now());
        while begin.elapsed() < Duration::from_millis(200) {}
        let after = Usage::of(&own).unwrap();
        assert!(after.cpu > before.cpu);
        assert!(after.wakeups >= before.wakeups);
        assert!(after.resident_mb >= after.proportional_mb && after.proportional_mb > 0.0);
        let now = MachineTime::now().unwrap();
        assert!(now.busy_since(machine) > 0.0);
        assert!((0.0..=100.0).contains(&now.stolen_since(machine)));
    }
}
