//! Where a run was made: everything that a later run must share to be compared with it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// The machine, its settings, and the programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Environment {
    /// Release of the kernel.
    pub(crate) kernel: String,
    pub(crate) cpu_model: String,
    /// Processors that this process may use.
    pub(crate) cores: u64,
    pub(crate) memory_bytes: u64,
    /// How the processor's clock is governed, where the kernel says so.
    pub(crate) cpu_governor: Option<String>,
    /// Open files that a process may have (soft limit).
    pub(crate) open_files_max: Option<u64>,
    /// Kernel settings that a QUIC server feels, by name.
    pub(crate) sysctls: BTreeMap<String, String>,
    /// Versions of the programs.
    pub(crate) versions: BTreeMap<String, String>,
    /// Whether the gateway ran on this machine and shared its processors.
    pub(crate) gateway_is_local: bool,
    /// Whether this was an optimised build; a debug build's figures mean little.
    pub(crate) optimised: bool,
    /// Revision of the sources around the program, with `-dirty` when they were changed; `None` outside a repository.
    pub(crate) git_revision: Option<String>,
}

/// Settings under `/proc/sys` that are worth knowing.
const SYSCTLS: [&str; 8] = [
    "fs.nr_open",
    "net.core.netdev_max_backlog",
    "net.core.rmem_default",
    "net.core.rmem_max",
    "net.core.wmem_default",
    "net.core.wmem_max",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.udp_mem",
];

impl Environment {
    /// Looks at this machine. What cannot be read is left out.
    pub(crate) fn here() -> Self {
        let proc = Path::new("/proc");
        let read = |path: &str| std::fs::read_to_string(proc.join(path)).unwrap_or_default();
        let unknown = || "unknown".to_owned();
        Self {
            kernel: Some(read("sys/kernel/osrelease").trim().to_owned())
                .filter(|release| !release.is_empty())
                .unwrap_or_else(unknown),
            cpu_model: cpu_model(&read("cpuinfo")).unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
            memory_bytes: memory_bytes(&read("meminfo")).unwrap_or(0),
            cpu_governor: std::fs::read_to_string(
                "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
            )
            .ok()
            .map(|governor| governor.trim().to_owned()),
            open_files_max: open_files_max(&read("self/limits")),
            sysctls: SYSCTLS
                .iter()
                .filter_map(|name| {
                    let path = proc.join("sys").join(name.replace('.', "/"));
                    let value = std::fs::read_to_string(path).ok()?;
                    let words: Vec<&str> = value.split_whitespace().collect();
                    Some(((*name).to_owned(), words.join(" ")))
                })
                .collect(),
            versions: BTreeMap::from([(
                "quipu-loadgen".to_owned(),
                env!("CARGO_PKG_VERSION").to_owned(),
            )]),
            gateway_is_local: true,
            optimised: !cfg!(debug_assertions),
            git_revision: git_revision(),
        }
    }
}

impl Environment {
    /// Name and value of each, for a reader.
    pub(crate) fn rows(&self) -> Vec<(String, String)> {
        let row = |name: &str, value: String| (name.to_owned(), value);
        let mut rows = vec![
            row("processor", self.cpu_model.clone()),
            row("cores", self.cores.to_string()),
            row(
                "memory",
                format!("{:.1} GiB", self.memory_bytes as f64 / (1u64 << 30) as f64),
            ),
            row("kernel", self.kernel.clone()),
        ];
        rows.extend(
            self.cpu_governor
                .clone()
                .map(|value| row("governor", value)),
        );
        rows.extend(
            self.open_files_max
                .map(|max| row("open files, at most", max.to_string())),
        );
        rows.extend(self.versions.clone());
        rows.push(row(
            "build",
            if self.optimised { "optimised" } else { "debug" }.to_owned(),
        ));
        rows.push(row(
            "gateway",
            if self.gateway_is_local {
                "on this machine"
            } else {
                "elsewhere"
            }
            .to_owned(),
        ));
        rows.extend(
            self.git_revision
                .clone()
                .map(|value| row("git revision", value)),
        );
        rows.extend(self.sysctls.clone());
        rows
    }
}

/// The first processor's name; ARM kernels give a part number only.
fn cpu_model(cpuinfo: &str) -> Option<String> {
    ["model name", "CPU part"].iter().find_map(|field| {
        cpuinfo.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name.trim() == *field).then(|| value.trim().to_owned())
        })
    })
}

fn memory_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

fn open_files_max(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Asks git about the folder of this program, which for whoever builds it lies within the sources.
fn git_revision() -> Option<String> {
    let program = std::env::current_exe().ok()?;
    let git = |arguments: &[&str]| {
        let said = Command::new("git")
            .arg("-C")
            .arg(program.parent()?)
            .args(arguments)
            .output()
            .ok()?;
        said.status
            .success()
            .then(|| String::from_utf8_lossy(&said.stdout).trim().to_owned())
    };
    let revision = git(&["rev-parse", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
    Some(match changed.is_empty() {
        true => revision,
        false => format!("{revision}-dirty"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_lines() {
        let cpuinfo = "processor\t: 0\nmodel name\t: A Chip: 3 GHz\nmodel name\t: other\n";
        assert_eq!(cpu_model(cpuinfo).as_deref(), Some("A Chip: 3 GHz"));
        assert_eq!(cpu_model("CPU part\t: 0xd0c\n").as_deref(), Some("0xd0c"));
        assert_eq!(cpu_model("flags: x\n"), None);
        assert_eq!(memory_bytes("MemTotal:  2 kB\nMemFree: 1 kB"), Some(2_048));
        assert_eq!(
            open_files_max("Max open files            1024                 4096    files\n"),
            Some(1_024)
        );
        assert_eq!(open_files_max("Max open files  unlimited\n"), None);
    }

    #[test]
    fn sees_this_machine() {
        let here = Environment::here();
        assert!(here.cores >= 1);
        assert!(here.memory_bytes > 1 << 20, "{here:?}");
        assert_ne!(here.kernel, "unknown");
        assert!(here.sysctls.contains_key("net.ipv4.udp_mem"), "{here:?}");
        assert!(here.versions.contains_key("quipu-loadgen"));
    }
}
