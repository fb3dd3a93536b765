//! The table of settings, and the structs it declares.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::value::{AdminListen, ByteCount, RateLimit, SecretText, SettingValue};

/// One setting as the sample file and `--help` describe it.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Its name in the file, with its section: `edge.max_connections`. The flag is the same with dashes, the environment
    /// variable the same in capitals after `QUIPU_`.
    pub key: &'static str,
    /// What it is.
    pub what: &'static str,
    /// Its default, as text.
    pub default: &'static str,
    /// What breaks when it is too small or too large.
    pub effect: &'static str,
    /// First version that had it.
    pub since: &'static str,
}

impl Setting {
    /// The flag, without the two dashes.
    pub fn flag(&self) -> String {
        self.key.replace(['.', '_'], "-")
    }

    /// The environment variable.
    pub fn variable(&self) -> String {
        format!("QUIPU_{}", self.key.replace('.', "_").to_uppercase())
    }
}

/// Why a setting could not be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SetError {
    /// There is no such setting.
    Unknown,
    /// The text is not a value of its type; says what was expected.
    Value(&'static str),
}

/// Reads a default. Defaults are literals of the table below, and a test reads them all.
fn default_value<T: SettingValue>(text: &str) -> T {
    match T::parse(text) {
        Some(value) => value,
        None => panic!("the default {text:?} is not {}", T::EXPECTED),
    }
}

fn set_value<T: SettingValue>(slot: &mut T, text: &str) -> Result<(), SetError> {
    *slot = T::parse(text).ok_or(SetError::Value(T::EXPECTED))?;
    Ok(())
}

macro_rules! settings {
    (
        {
            $( #[doc = $root_what:literal] $root:ident: $root_type:ty = $root_default:literal, $root_effect:literal, since $root_since:literal; )*
        }
        $( $(#[doc = $section_doc:literal])* $section:ident: $section_type:ident {
            $( #[doc = $what:literal] $name:ident: $type:ty = $default:literal, $effect:literal, since $since:literal; )*
        } )*
    ) => {
        /// All settings of a gateway.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Config {
            $( #[doc = $root_what] pub $root: $root_type, )*
            $( $(#[doc = $section_doc])* pub $section: $section_type, )*
        }

        $(
            $(#[doc = $section_doc])*
            #[derive(Debug, Clone, PartialEq, Eq)]
            pub struct $section_type {
                $( #[doc = $what] pub $name: $type, )*
            }

            impl Default for $section_type {
                fn default() -> Self {
                    Self { $( $name: default_value($default), )* }
                }
            }
        )*

        impl Default for Config {
            fn default() -> Self {
                Self {
                    $( $root: default_value($root_default), )*
                    $( $section: $section_type::default(), )*
                }
            }
        }

        /// Every setting, in the order of the sample file.
        pub const SETTINGS: &[Setting] = &[
            $( Setting {
                key: stringify!($root), what: $root_what, default: $root_default, effect: $root_effect, since: $root_since,
            }, )*
            $( $( Setting {
                key: concat!(stringify!($section), ".", stringify!($name)),
                what: $what, default: $default, effect: $effect, since: $since,
            }, )* )*
        ];

        /// The sections with what they are about, in the order of the sample file.
        pub(super) const SECTIONS: &[(&str, &[&str])] = &[
            $( (stringify!($section), &[ $( $section_doc, )* ]), )*
        ];

        impl Config {
            /// Sets one setting from text.
            pub(super) fn set(&mut self, key: &str, text: &str) -> Result<(), SetError> {
                match key {
                    $( stringify!($root) => set_value(&mut self.$root, text), )*
                    $( $( concat!(stringify!($section), ".", stringify!($name)) => {
                        set_value(&mut self.$section.$name, text)
                    } )* )*
                    _ => Err(SetError::Unknown),
                }
            }

            /// Writes one setting as a TOML value; `None` if there is no such setting.
            pub(super) fn to_toml(&self, key: &str) -> Option<String> {
                match key {
                    $( stringify!($root) => Some(self.$root.to_toml()), )*
                    $( $( concat!(stringify!($section), ".", stringify!($name)) => {
                        Some(self.$section.$name.to_toml())
                    } )* )*
                    _ => None,
                }
            }
        }
    };
}

settings! {
    {
        #[doc = "UDP address and port that clients connect to."]
        listen: SocketAddr = "127.0.0.1:4433",
            "On a loopback address only this machine can connect; [::]:4433 takes everybody, IPv4 included.", since "0.1.0";
        #[doc = "Folder that holds everything the gateway keeps; made if it does not exist."]
        data: PathBuf = "quipu-data",
            "Two gateways cannot share one. Losing it loses every account and message.", since "0.1.0";
        #[doc = "Which log lines are written to standard error, as in RUST_LOG, which wins if it is set."]
        log: String = "info",
            "At debug and below every connection is logged, which costs more than serving it.", since "0.1.0";
    }

    /// What connections may cost.
    edge: Edge {
        #[doc = "QUIC connections open at once."]
        max_connections: u32 = "120000",
            "Too small: clients are ignored and try again. Too large: each idle one takes about 32 KiB of memory.", since "0.1.0";
        #[doc = "QUIC handshakes in progress at once; a few thousand more wait for their turn. From half of it on, strangers must prove their address by a Retry."]
        max_handshakes: u32 = "1024",
            "Too small: log-ins are slower than the machine allows. Too large: a storm of log-ins delays everybody's messages.", since "0.1.0";
        #[doc = "Connections whose device is not let in yet, at once, handshakes included; from half of it on, strangers must prove their address by a Retry."]
        max_unwelcomed: u32 = "8192",
            "Too small: a few who connect and say nothing keep others out. Too large: they hold that much memory for the 5s that HELLO may take.", since "0.1.0";
        #[doc = "Kernel buffer requested for receiving and for sending, each."]
        socket_buffer: ByteCount = "8MiB",
            "Too small: the kernel drops datagrams under load, and latency jumps. The kernel caps it; a warning says when.", since "0.1.0";
        #[doc = "Bytes buffered for sending on one connection."]
        send_window: ByteCount = "128KiB",
            "Too small: catching up is slow over long distances. Too large: peers that stop reading hold that much memory each.", since "0.1.0";
        #[doc = "How long sessions are given to leave after GOAWAY when the gateway stops."]
        drain_timeout: Duration = "5s",
            "Too short: clients notice by a broken connection instead of a GOAWAY. Too long: stopping takes that long.", since "0.1.0";
        #[doc = "Clients wait a random part of this before they connect anew after a GOAWAY."]
        reconnect_jitter: Duration = "5s",
            "Too short: all clients of a stopped gateway arrive in the same moment. Too long: they are away longer than needed.", since "0.1.0";
    }

    /// The certificate. Without a setting here a self-signed one is made in the data folder on first start, and clients pin it.
    tls: Tls {
        #[doc = "PEM file with the certificate and its chain, leaf first; empty: self-signed."]
        certificate: PathBuf = "",
            "Needs tls.key as well. ECDSA P-256 keeps handshakes cheap and within one round trip.", since "0.1.0";
        #[doc = "PEM file with the certificate's private key; empty: self-signed."]
        key: PathBuf = "",
            "Readable by others: anybody can pose as this gateway. The files are read again on SIGHUP.", since "0.1.0";
        #[doc = "Names and IP addresses in the self-signed certificate, separated by commas."]
        names: String = "localhost,127.0.0.1,::1",
            "Only used when the certificate is made; remove DATA/tls to have it made anew, after which clients must pin it again.", since "0.1.0";
    }

    /// Who may have an account, and what checking a password costs.
    accounts: Accounts {
        #[doc = "Who may register: open, invitation, closed, or auto (open on a loopback address, closed elsewhere)."]
        registration: Registration = "auto",
            "open on a public address lets strangers make accounts without limit.", since "0.1.0";
        #[doc = "The code that registration = invitation asks for; 1 to 128 bytes."]
        invitation: String = "",
            "Whoever knows it can register. Prefer the environment variable to the flag, which other users can see.", since "0.1.0";
        #[doc = "Memory of one password hash (argon2id)."]
        hash_memory: ByteCount = "19MiB",
            "Too small: stolen hashes are cheap to guess. Too large: few log-ins by password at once. Old hashes stay valid.", since "0.1.0";
        #[doc = "Passes over that memory."]
        hash_passes: u32 = "2",
            "Too small: stolen hashes are cheap to guess. Too large: log-in by password is slow.", since "0.1.0";
        #[doc = "Password hashes computed at once."]
        hash_threads: u32 = "1",
            "Too small: log-ins by password wait. Too large: they take the processor from messages. Each takes hash_memory.", since "0.1.0";
        #[doc = "Password hashes that may wait; above it, clients are told BUSY."]
        hash_queue: u32 = "64",
            "Too small: a few log-ins at once are refused. Too large: a client may wait longer than the time limit for HELLO.", since "0.1.0";
    }

    /// Another service's users: whoever shows a signed token (JWT) of a trusted issuer is let in, and has an account from then
    /// on. Accounts of the issuer have no password.
    external: External {
        #[doc = "Folder with the issuer's public keys, one KID.pem each, Ed25519 or P-256; empty: no issuer is trusted."]
        keys: PathBuf = "",
            "Whoever has a private key to one of these can be any user without a password. Read again within 10s of a change.", since "0.1.0";
        #[doc = "The iss of its tokens."]
        issuer: String = "",
            "Tokens with another one are refused.", since "0.1.0";
        #[doc = "The aud of its tokens: what names this gateway there."]
        audience: String = "",
            "Tokens with another one are refused; shared with another service, its tokens would be good here.", since "0.1.0";
        #[doc = "How much the issuer's clock may differ from ours."]
        leeway: Duration = "30s",
            "Too short: fresh tokens are not valid yet. Too long: tokens that are over are good for that much longer. At most 5m.", since "0.1.0";
    }

    /// How often users and addresses may ask, and what reading from the store may cost. A rate is off, or what comes back in a
    /// second (s), minute (m) or hour (h), and how much of it may be used at once.
    limits: Limits {
        #[doc = "Store reads running at once, each on a thread of its own."]
        queries: u32 = "8",
            "Too small: catching up and history are slow. Too large: reads take the processor and the disk from messages.", since "0.1.0";
        #[doc = "Request streams (history) being served at once, over all connections; above it, clients are told BUSY."]
        requests: u32 = "256",
            "Too small: scrolling back is refused under load. Each holds up to one page (256 KiB).", since "0.1.0";
        #[doc = "How long an answer from the log or the store is waited for."]
        answer_timeout: Duration = "8s",
            "Too short: a slow disk looks like a dead one. Above 10s the client has given up before.", since "0.1.0";
        #[doc = "Connections of one address."]
        connections_per_address: RateLimit = "100/s burst 2000",
            "Too small: users behind one router or proxy keep each other out. Too large: one machine keeps the gateway busy with handshakes.", since "0.1.0";
        #[doc = "Registrations of one address."]
        registrations_per_address: RateLimit = "30/m burst 100",
            "Too small: people in one house or office must wait. Too large: a stranger fills the store with accounts.", since "0.1.0";
        #[doc = "Wrong passwords of one user from one address; a right one fills the burst again. Loopback is not exempt."]
        wrong_passwords: RateLimit = "3/m burst 10",
            "Too small: somebody who mistypes must wait. Too large: passwords can be guessed.", since "0.1.0";
        #[doc = "Commands of one user (messages, receipts and all else), over all devices."]
        commands_per_user: RateLimit = "1000/s burst 5000",
            "Too small: programs that send much are slowed down. Too large: one user takes the log from all others.", since "0.1.0";
        #[doc = "Conversations that one user may make."]
        conversations_per_user: RateLimit = "1/s burst 500",
            "Too small: importing an address book takes long. Too large: one user writes to everybody there is.", since "0.1.0";
        #[doc = "Whether connections from this machine are exempt from the limits for addresses."]
        loopback_exempt: bool = "true",
            "Tunnels, proxies and load generators bring many users from one loopback address. false: they count as one address.", since "0.1.0";
    }

    /// Groups.
    groups: Groups {
        #[doc = "Members up to which the messages of a group go into every member's inbox; fixed for a group when it is made."]
        fan_out_max: u32 = "256",
            "Too small: clients of middling groups have to ask for what they missed. Too large: one message makes that many rows.", since "0.1.0";
    }

    /// Who is told that somebody is here.
    presence: Presence {
        #[doc = "How long a user is still here after the last connection ended."]
        grace: Duration = "10s",
            "Too short: a change of network shows as leaving and coming. Too long: who has left seems to be here.", since "0.1.0";
    }

    /// What inboxes keep. A device whose next event is gone begins anew: with the list of conversations, and history on demand.
    inbox: Inbox {
        #[doc = "Newest events of each user that are kept for devices that are away."]
        keep_events: u32 = "200000",
            "Too small: a device that was away for a moment begins anew. Too large: busy users take more disk, about 100 bytes an event.", since "0.1.0";
        #[doc = "How long an event is kept; it goes with the first event that comes after that."]
        keep_for: Duration = "2160h",
            "Too short: a device that was away for some days begins anew. Too long: rows that nobody will ask for stay.", since "0.1.0";
    }

    /// The log and the store.
    storage: Storage {
        #[doc = "Number of shards; fixed when the data folder is made."]
        shards: u32 = "64",
            "Too small: fewer processors can work at once. Too large: batches are small and slow. 1 to 1024.", since "0.1.0";
        #[doc = "Threads that apply the log; 0: one for each processor, at most 8."]
        processors: u32 = "0",
            "Too small: messages wait. More than the machine has processors brings nothing.", since "0.1.0";
        #[doc = "How often rows are moved from memory to the store."]
        flush_interval: Duration = "500ms",
            "Too short: the disk is busier. Too long: more of the log is replayed after a crash.", since "0.1.0";
        #[doc = "Rows held in memory before they are moved."]
        overlay: ByteCount = "64MiB",
            "Too small: messages wait for the disk. Too large: more memory, and more of the log is replayed after a crash.", since "0.1.0";
    }

    /// Webhooks about messages that no device of a user took in time, for whoever pushes to phones. Off without a url.
    notify: Notify {
        #[doc = "Where they are posted to (POST, JSON, signed as Standard Webhooks say); empty: nowhere."]
        url: String = "",
            "With http:// others can read who gets messages from whom.", since "0.1.0";
        #[doc = "Secrets to sign with, separated by commas, the newest first: whsec_ and 24 to 64 bytes in base64."]
        secrets: SecretText = "",
            "Whoever knows one can forge webhooks. Prefer the environment variable to the flag, which other users can see.", since "0.1.0";
        #[doc = "How long a message waits for a device to ack it before it is told about."]
        after: Duration = "30s",
            "Too short: a change of network already makes phones ring. Too long: news is old.", since "0.1.0";
        #[doc = "Whether the text of the last message is told as well."]
        include_content: bool = "false",
            "true: the receiver, and every push service behind it, can read messages.", since "0.1.0";
        #[doc = "Tries of one webhook; after the last one it becomes a dead letter."]
        tries: u32 = "10",
            "Too small: a receiver that restarts misses some. Too large: a broken one is asked for hours.", since "0.1.0";
        #[doc = "Time for one try, from connecting to the answer."]
        timeout: Duration = "10s",
            "Too short: slow answers count as failures and are posted again. Too long: a hanging receiver blocks the others.", since "0.1.0";
        #[doc = "Users whose webhooks are posted at once, each on a connection of its own."]
        concurrency: u32 = "8",
            "Too small: webhooks wait. Too large: the receiver is flooded.", since "0.1.0";
        #[doc = "Longest wait after a first failure; doubles with each further one."]
        backoff: Duration = "2s",
            "Too short: a receiver that comes back is knocked over again. Too long: webhooks are late.", since "0.1.0";
        #[doc = "Longest wait between two tries."]
        backoff_max: Duration = "10m",
            "Too short: a receiver that is down is asked often. Too long: it is up and hears nothing.", since "0.1.0";
        #[doc = "PEM file with certificates to trust besides those of the system; empty: none."]
        ca: PathBuf = "",
            "For a receiver with a certificate of your own making.", since "0.1.0";
    }

    /// Pictures, videos and files. They are kept in DATA/media, or in an S3 bucket if one is named.
    media: Media {
        #[doc = "Largest file; above it uploads are refused before their first byte."]
        max_size: ByteCount = "2GiB",
            "Too small: videos are refused. Too large: one file can fill media.staging.", since "0.1.0";
        #[doc = "Types of files that are taken, as their senders state them: image/*, video/mp4, */*, separated by commas."]
        types: String = "*/*",
            "Nobody looks into the files: a sender can state any type. Other types are refused before their first byte.", since "0.1.0";
        #[doc = "Uploads and downloads being served at once, over all connections; above it, clients are told BUSY."]
        transfers: u32 = "64",
            "Too small: transfers wait for each other. Each takes about 512 KiB of memory, a file and a share of disk and network.", since "0.1.0";
        #[doc = "Of those, how many one user may have."]
        user_transfers: u32 = "4",
            "Too small: a user's devices wait for each other. Too large: a few users take all of media.transfers.", since "0.1.0";
        #[doc = "A transfer that moves less than 64 KiB in this time is ended, and so is a request to the bucket that takes longer; both can be resumed."]
        stall_timeout: Duration = "30s",
            "Too short: slow networks never finish, nor does a bucket that takes less than 16 MiB in it. Too long: peers and buckets that do nothing hold places.", since "0.1.0";
        #[doc = "Unfinished uploads that a user may have; above it, further ones are refused."]
        partials_per_user: u32 = "8",
            "Too small: uploads side by side are refused. Each holds up to media.max_size of disk.", since "0.1.0";
        #[doc = "Bytes of all unfinished uploads together, as announced; above it, further ones are told BUSY."]
        staging: ByteCount = "16GiB",
            "Too small: large files wait for each other. Too large: unfinished uploads can fill the disk that the log needs.", since "0.1.0";
        #[doc = "An unfinished upload that nobody went on with for so long is removed."]
        abandoned_after: Duration = "24h",
            "Too short: a device that was away starts over. Too long: disk is held for uploads that nobody wants.", since "0.1.0";
        #[doc = "A file that no message refers to is removed when it was uploaded so long ago."]
        unreferenced_after: Duration = "1h",
            "Too short: a message that follows its upload late is refused. Too long: files of deleted messages stay. At least 1m.", since "0.1.0";
        #[doc = "Bytes that one user may upload in an hour; above it, uploads are told RATE_LIMITED with a time."]
        user_bytes_per_hour: ByteCount = "8GiB",
            "Too small: holiday videos wait. Too large: one user can fill the disk.", since "0.1.0";
        #[doc = "S3 bucket that finished files are kept in; empty: DATA/media/objects."]
        bucket: String = "",
            "The bucket must exist. Files that are in the folder already are not moved.", since "0.1.0";
        #[doc = "Address of the S3 service: https://HOST, or http://HOST:PORT on a trusted network; empty: that of media.region."]
        endpoint: String = "",
            "Over http:// files and signatures travel in the clear.", since "0.1.0";
        #[doc = "Region of the bucket."]
        region: String = "us-east-1",
            "A wrong one: the service refuses the signature.", since "0.1.0";
        #[doc = "Put before the name of each object in the bucket."]
        prefix: String = "quipu",
            "Two gateways of different clusters with one prefix remove each other's files.", since "0.1.0";
        #[doc = "Access key of the bucket."]
        access_key: String = "",
            "Needs reading, writing, listing and deleting below media.prefix.", since "0.1.0";
        #[doc = "Secret that belongs to it."]
        secret_key: SecretText = "",
            "Whoever knows it can read every file. Prefer the environment variable to the flag, which other users can see.", since "0.1.0";
    }

    /// Pages for the operator: /metrics, /healthz, /readyz.
    admin: Admin {
        #[doc = "TCP address of the admin pages, or off."]
        listen: AdminListen = "127.0.0.1:4434",
            "They have no password: on an address that others reach, anybody can read them. A taken port is a warning only.", since "0.1.0";
    }
}

/// Who may register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registration {
    /// Everybody on a loopback address, nobody elsewhere.
    Auto,
    /// Everybody.
    Open,
    /// Whoever knows the invitation.
    Invitation,
    /// Nobody.
    Closed,
}

impl SettingValue for Registration {
    const EXPECTED: &'static str = "auto, open, invitation or closed";
    fn parse(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(Self::Auto),
            "open" => Some(Self::Open),
            "invitation" => Some(Self::Invitation),
            "closed" => Some(Self::Closed),
            _ => None,
        }
    }
    fn to_toml(&self) -> String {
        let name = match self {
            Self::Auto => "auto",
            Self::Open => "open",
            Self::Invitation => "invitation",
            Self::Closed => "closed",
        };
        format!("\"{name}\"")
    }
}
