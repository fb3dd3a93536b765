//! What a run needs of the machine, looked at before it begins, each with what to do about it.

use std::path::Path;

use crate::scenario::Scenario;

/// Memory of one connection, gateway and generator together, generously counted.
const CONNECTION_BYTES: u64 = 70 << 10;
/// The same of the generator alone.
const GENERATOR_CONNECTION_BYTES: u64 = 38 << 10;
/// Files of a process beside its sockets: standard streams, `/proc`, the event queue.
const FILES_BESIDE: u64 = 64;
/// What a socket that carries thousands of connections wants for its buffers.
const SOCKET_BUFFER_BYTES: u64 = 4 << 20;

/// What the machine offers. Fields that cannot be read are `None` and not checked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Machine {
    open_files: Option<u64>,
    receive_buffer: Option<u64>,
    send_buffer: Option<u64>,
    ports: Option<u64>,
    memory_available: Option<u64>,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    /// The run cannot work.
    pub(crate) errors: Vec<String>,
    /// It can, and its figures may suffer.
    pub(crate) warnings: Vec<String>,
}

impl Machine {
    /// Looks at this machine.
    pub(crate) fn here() -> Self {
        let read = |path: &str| std::fs::read_to_string(Path::new("/proc").join(path)).ok();
        let number = |path: &str| read(path)?.trim().parse().ok();
        Self {
            open_files: read("self/limits").and_then(|text| open_files(&text)),
            receive_buffer: number("sys/net/core/rmem_max"),
            send_buffer: number("sys/net/core/wmem_max"),
            ports: read("sys/net/ipv4/ip_local_port_range").and_then(|text| ports(&text)),
            memory_available: read("meminfo").and_then(|text| memory_available(&text)),
        }
    }

    /// Holds it against a scenario. `own_gateway`: the gateway is to run here too.
    pub(crate) fn check(&self, scenario: &Scenario, own_gateway: bool) -> Findings {
        let mut findings = Findings::default();
        let clients = scenario.clients();
        let sockets = crate::ports::count(clients as usize) as u64;
        let files = 2 * sockets + FILES_BESIDE;
        if let Some(open) = self.open_files.filter(|open| *open < files) {
            findings.errors.push(format!(
                "{sockets} sockets need {files} open files, and {open} are allowed; raise them with: ulimit -n {files}"
            ));
        }
        // Migrations and storms open new ones while the old ones are still there.
        if let Some(ports) = self.ports.filter(|ports| *ports < 2 * sockets) {
            findings.errors.push(format!(
                "{sockets} sockets need {} ports, and the kernel hands out {ports}; widen them with: sysctl -w \
                 net.ipv4.ip_local_port_range='32768 60999'",
                2 * sockets
            ));
        }
        let each = match own_gateway {
            true => CONNECTION_BYTES,
            false => GENERATOR_CONNECTION_BYTES,
        };
        let memory = clients * each;
        if let Some(available) = self.memory_available.filter(|have| *have < memory) {
            findings.errors.push(format!(
                "{clients} connections need about {} MiB of memory, and {} MiB are available; free some, or use \
                 --connections {}",
                memory >> 20,
                available >> 20,
                available / each
            ));
        }
        let buffers = [
            ("rmem_max", self.receive_buffer),
            ("wmem_max", self.send_buffer),
        ];
        for (name, bytes) in buffers {
            if let Some(bytes) = bytes.filter(|bytes| *bytes < SOCKET_BUFFER_BYTES) {
                findings.warnings.push(format!(
                    "net.core.{name} is {bytes}: the kernel will drop datagrams under load; raise it with: sysctl -w \
                     net.core.{name}={SOCKET_BUFFER_BYTES}"
                ));
            }
        }
        findings
    }
}

/// The soft limit of open files in `/proc/self/limits`.
fn open_files(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

fn ports(text: &str) -> Option<u64> {
    let mut both = text.split_whitespace().map(str::parse::<u64>);
    let (first, last) = (both.next()?.ok()?, both.next()?.ok()?);
    Some((last + 1).saturating_sub(first))
}

fn memory_available(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shortage_names_its_remedy() {
        let scenario = crate::scenario::builtin("idle-100k").unwrap();
        let enough = Machine {
            open_files: Some(1_024),
            receive_buffer: Some(16 << 20),
            send_buffer: Some(16 << 20),
            ports: Some(28_232),
            memory_available: Some(8 << 30),
        };
        assert_eq!(enough.check(&scenario, true), Findings::default());
        let short = Machine {
            open_files: Some(100),
            receive_buffer: Some(212_992),
            send_buffer: Some(212_992),
            ports: Some(10),
            memory_available: Some(4 << 30),
        };
        let Findings { errors, warnings } = short.check(&scenario, true);
        let said = errors.join("\n");
        for remedy in [
            "ulimit -n 144",
            "ip_local_port_range",
            "--connections 59918",
        ] {
            assert!(said.contains(remedy), "{said}");
        }
        assert!(warnings[0].contains("sysctl -w net.core.rmem_max=4194304"));
        // Without the gateway the same memory is enough.
        assert_eq!(short.check(&scenario, false).errors.len(), 2);
        assert_eq!(
            Machine::default().check(&scenario, true),
            Findings::default()
        );
    }

    #[test]
    fn reads_the_kernels_lines() {
        let limits = "Limit  Soft Limit  Hard Limit\nMax open files            1024                 524288               files\n";
        assert_eq!(open_files(limits), Some(1_024));
        assert_eq!(ports("32768\t60999\n"), Some(28_232));
        assert_eq!(
            memory_available("MemTotal: 9 kB\nMemAvailable:  8 kB\n"),
            Some(8 << 10)
        );
    }
}
