//! The command line: every argument, its default and its environment variable.

mod groups;
mod parse;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use quipu_client::{CertificatePolicy, Config, Fingerprint};
use quipu_protocol::id::{Seq, UserId};
use quipu_protocol::media::{MediaHash, MediaType};

pub(crate) use self::groups::{
    Ask, DeviceCommand, DevicesArgs, EditArgs, GroupArgs, GroupCommand, MessageArgs, PresenceArgs,
    PrivacyArgs, ReactArgs, ReportArgs, TimerArgs, UserArgs,
};
pub(crate) use self::parse::{MessageRef, Place};

/// How long one attempt to connect may take: a person or a script is waiting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Chat from the terminal through a Quipu gateway. Without a command: the screen.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage, 75 the gateway is away (what was sent stays queued and goes out at the next start).
/// One process at a time uses a data folder; give each account and each program its own with --data.
#[derive(Debug, Parser)]
#[command(name = "quipu", version)]
pub(crate) struct Cli {
    /// Address of the gateway.
    #[arg(
        long,
        global = true,
        value_name = "HOST:PORT",
        env = "QUIPU_SERVER",
        default_value = "127.0.0.1:4433"
    )]
    pub(crate) server: String,
    /// Folder of the account: its session, messages and outbox. Default: quipu in the user's data folder
    /// ($XDG_DATA_HOME, else ~/.local/share).
    #[arg(long, global = true, value_name = "DIR", env = "QUIPU_DATA")]
    pub(crate) data: Option<PathBuf>,
    /// Accept a certificate of the gateway that differs from the one seen before, and remember it. For one run, after asking
    /// the gateway's operator whether it was changed.
    #[arg(long, global = true, conflicts_with = "fingerprint")]
    pub(crate) accept_new_certificate: bool,
    /// Accept only the certificate with this fingerprint, as the gateway prints it at its start.
    #[arg(long, global = true, value_name = "SHA256")]
    pub(crate) fingerprint: Option<Fingerprint>,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What to do without the screen.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make an account; this folder becomes its first device.
    Register {
        /// The account.
        #[command(flatten)]
        account: Account,
        /// For gateways that register by invitation only.
        #[arg(long, value_name = "TEXT")]
        invitation: Option<String>,
    },
    /// Use an account that exists; this folder becomes one more of its devices.
    Login(LoginArgs),
    /// Send a message; prints its seq once the gateway has it for good.
    Send(SendArgs),
    /// Print messages of others as they arrive, each once, in order, going on where the last listen of this folder stopped.
    Listen(ListenArgs),
    /// Print a conversation.
    History(HistoryArgs),
    /// Send a file: bring it to a conversation, on from where the last upload of it stopped, and a message that shows it.
    /// Prints its hash once the gateway has both.
    Upload(UploadArgs),
    /// Fetch a file of a conversation by its hash; goes on where the last download of it stopped.
    Download(DownloadArgs),
    /// Print the conversations that the gateway has of you, the latest first.
    Conversations(Ask),
    /// Print the groups that you are asked into and have not answered; what this folder knows of it without a gateway, with 75.
    Invitations(Ask),
    /// Make groups, and change them.
    #[command(subcommand)]
    Group(GroupCommand),
    /// Let an own message say something else.
    Edit(EditArgs),
    /// Take a message's content away, for everybody.
    Delete(MessageArgs),
    /// Put a sign on a message.
    React(ReactArgs),
    /// Print what a message has said, the oldest version first.
    Versions(MessageArgs),
    /// Say how long new messages of a conversation are kept.
    Timer(TimerArgs),
    /// Print your devices, name them, throw them out.
    Devices(DevicesArgs),
    /// Take no messages from a user.
    Block(UserArgs),
    /// Take messages from a user again.
    Unblock(UserArgs),
    /// Complain to the operator of the gateway about a conversation or a message in it.
    Report(ReportArgs),
    /// Print whether users are here, or when they last were: those you have a direct conversation with.
    Presence(PresenceArgs),
    /// Print what others may learn of you, and whom you have blocked; or change the first.
    Privacy(PrivacyArgs),
}

/// Arguments of `login`: a name and its password, or a token's file.
#[derive(Debug, Args)]
pub(crate) struct LoginArgs {
    /// Whose account; a token says it itself.
    #[arg(required_unless_present = "token_file", conflicts_with = "token_file")]
    pub(crate) name: Option<UserId>,
    /// Read the password from standard input, up to the end of its first line.
    #[arg(
        long,
        required_unless_present = "token_file",
        conflicts_with = "token_file"
    )]
    pub(crate) password_stdin: bool,
    /// A file with a signed token of an issuer that the gateway trusts, and nothing else. Its place is remembered: put newer
    /// tokens there before the old ones end. Say it again when it has moved.
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
}

/// Whose account, and how the password comes.
#[derive(Debug, Args)]
pub(crate) struct Account {
    /// 2 to 31 characters of a-z, 0-9, '.', '_' or '-'.
    pub(crate) name: UserId,
    /// Read the password from standard input, up to the end of its first line. There is no other way here; the screen asks.
    #[arg(long, required = true)]
    pub(crate) password_stdin: bool,
}

/// Arguments of `send`.
#[derive(Debug, Args)]
pub(crate) struct SendArgs {
    /// To whom: a user's name or a conversation's id.
    #[arg(value_name = "CONVERSATION")]
    pub(crate) place: Place,
    /// What, or `-`: one message a line from standard input, empty lines left out.
    #[arg(required_unless_present = "forward", conflicts_with = "forward")]
    pub(crate) text: Option<String>,
    /// Answer this message of the same conversation.
    #[arg(long, value_name = "SEQ", value_parser = parse::seq)]
    pub(crate) reply_to: Option<Seq>,
    /// Speak to this user; may be given many times.
    #[arg(long, value_name = "USER")]
    pub(crate) mention: Vec<UserId>,
    /// Send the words of another message, and say whose they are.
    #[arg(long, value_name = "CONVERSATION:SEQ")]
    pub(crate) forward: Option<MessageRef>,
    /// Give up with exit code 75 when no ack came for so many seconds. What was queued stays queued.
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = parse::seconds)]
    pub(crate) wait: Duration,
    /// Print an object for each message instead of its seq (SCHEMA.md).
    #[arg(long)]
    pub(crate) json: bool,
}

/// Arguments of `listen`.
#[derive(Debug, Args)]
pub(crate) struct ListenArgs {
    /// Print an object for each message, for each edit, deletion, reaction and invitation, and for who types, comes and goes
    /// (SCHEMA.md).
    #[arg(long)]
    pub(crate) json: bool,
    /// Print everything from the beginning of the account's inbox, what this device sent included.
    #[arg(long)]
    pub(crate) from_start: bool,
    /// Print what this device sent, too.
    #[arg(long)]
    pub(crate) own: bool,
    /// End after so many messages; with --json after so many lines, not counting who types, comes and goes.
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
    /// End after so many seconds.
    #[arg(long, value_name = "SECONDS", value_parser = parse::seconds)]
    pub(crate) timeout: Option<Duration>,
}

/// Arguments of `history`.
#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// A user's name or a conversation's id.
    #[arg(value_name = "CONVERSATION")]
    pub(crate) place: Place,
    /// Print an object for each message (SCHEMA.md).
    #[arg(long)]
    pub(crate) json: bool,
    /// Only the messages above this seq.
    #[arg(long, value_name = "SEQ", value_parser = parse::seq)]
    pub(crate) after: Option<Seq>,
    /// Only this message and those around it.
    #[arg(long, value_name = "SEQ", value_parser = parse::seq, conflicts_with = "after")]
    pub(crate) around: Option<Seq>,
    /// With --around: so many before it and so many behind it.
    #[arg(long, value_name = "N", default_value = "10", requires = "around")]
    pub(crate) context: u16,
    /// When the gateway does not answer for so many seconds, print what this folder has and exit with 75.
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = parse::seconds)]
    pub(crate) wait: Duration,
}

/// Arguments of `upload`.
#[derive(Debug, Args)]
pub(crate) struct UploadArgs {
    /// Which file.
    pub(crate) file: PathBuf,
    /// To whom: a user's name or a conversation's id.
    #[arg(long = "to", value_name = "CONVERSATION")]
    pub(crate) place: Place,
    /// Words of the message that shows it.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) text: String,
    /// Answer this message of the same conversation with it.
    #[arg(long, value_name = "SEQ", value_parser = parse::seq)]
    pub(crate) reply_to: Option<Seq>,
    /// Send no message. The gateway removes a file that no message refers to after a while.
    #[arg(long, conflicts_with_all = ["text", "reply_to"])]
    pub(crate) no_message: bool,
    /// What it is, such as image/jpeg. Default: told from its first bytes and its name.
    #[arg(long = "type", value_name = "TYPE/SUBTYPE", value_parser = parse::media_type)]
    pub(crate) media_type: Option<MediaType>,
    /// Another conversation that has the file already, so that its bytes need not travel again.
    #[arg(long, value_name = "CONVERSATION")]
    pub(crate) source: Option<Place>,
    /// How it is shown and waited for.
    #[command(flatten)]
    pub(crate) transfer: TransferArgs,
}

/// Arguments of `download`.
#[derive(Debug, Args)]
pub(crate) struct DownloadArgs {
    /// A user, or the 32 hexadecimal digits of a conversation.
    pub(crate) conversation: Place,
    /// The 64 hexadecimal digits of the file's hash.
    pub(crate) hash: MediaHash,
    /// Where to put it. A file that is there already is left alone, and the command fails.
    pub(crate) file: PathBuf,
    /// How it is shown and waited for.
    #[command(flatten)]
    pub(crate) transfer: TransferArgs,
}

/// What uploads and downloads have in common.
#[derive(Debug, Args)]
pub(crate) struct TransferArgs {
    /// Print an object at the end (SCHEMA.md).
    #[arg(long)]
    pub(crate) json: bool,
    /// Show how far it is: lines on standard error, or with --json objects on standard output. Without --json a terminal is
    /// shown it anyway.
    #[arg(long)]
    pub(crate) progress: bool,
    /// Give up with exit code 75 when the gateway is away for so many seconds. What has come through stays.
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = parse::seconds)]
    pub(crate) wait: Duration,
}

impl Cli {
    /// The SDK's settings that follow from the arguments.
    pub(crate) fn config(&self) -> anyhow::Result<Config> {
        let data = match &self.data {
            Some(data) => data.clone(),
            None => default_data()?,
        };
        let certificate = match self.fingerprint {
            Some(fingerprint) => CertificatePolicy::Fingerprint(fingerprint),
            None if self.accept_new_certificate => CertificatePolicy::AcceptNew,
            None => CertificatePolicy::PinOnFirstUse,
        };
        let invitation = if let Some(Command::Register { invitation, .. }) = &self.command {
            invitation.clone()
        } else {
            None
        };
        Ok(Config {
            data: Some(data),
            server: self.server.clone(),
            certificate,
            device_label: "terminal".into(),
            invitation,
            connect_timeout: CONNECT_TIMEOUT,
            ..Config::default()
        })
    }
}

/// `quipu` below $XDG_DATA_HOME or ~/.local/share.
fn default_data() -> anyhow::Result<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .map(|folder| folder.join("quipu"))
        .context("no home folder is known: say where the account is kept with --data DIR")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;
    use quipu_protocol::id::ConversationId;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("quipu").chain(line.split_whitespace()))
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_lines_that_scripts_rely_on() {
        assert!(matches!(parse("").map(|cli| cli.command), Ok(None)));
        let cli = parse("--server gw:1 --data /d register alice --password-stdin").expect("valid");
        assert_eq!((cli.server.as_str(), cli.data), ("gw:1", Some("/d".into())));
        assert!(matches!(cli.command, Some(Command::Register { .. })));
        let Ok(Some(Command::Send(send))) = parse("send bob -").map(|cli| cli.command) else {
            panic!("send")
        };
        assert_eq!(
            (send.place, send.text.as_deref(), send.json),
            (
                Place::User(UserId::new("bob").expect("valid")),
                Some("-"),
                false
            )
        );
        let line = "listen --json --from-start --count 3 --timeout 1.5 --data /d";
        let Ok(Some(Command::Listen(listen))) = parse(line).map(|cli| cli.command) else {
            panic!("listen")
        };
        assert!(listen.json && listen.from_start && !listen.own);
        assert_eq!(
            (listen.count, listen.timeout),
            (Some(3), Some(Duration::from_millis(1500)))
        );
        let Ok(Some(Command::History(history))) =
            parse("history bob --json").map(|cli| cli.command)
        else {
            panic!("history")
        };
        assert!(history.json && history.after.is_none());
        let Ok(Some(Command::Upload(upload))) =
            parse("upload cat.png --to bob --json --type image/png").map(|cli| cli.command)
        else {
            panic!("upload")
        };
        let bob = UserId::new("bob").expect("a name");
        assert_eq!(upload.place, Place::User(bob));
        assert_eq!(upload.file, PathBuf::from("cat.png"));
        assert!(upload.transfer.json && upload.source.is_none());
        assert!(upload.text.is_empty() && !upload.no_message);
        let (id, hash) = ("ab".repeat(16), "cd".repeat(32));
        let line = format!("download {id} {hash} cat.png");
        let Ok(Some(Command::Download(download))) = parse(&line).map(|cli| cli.command) else {
            panic!("download")
        };
        let conversation = Place::Conversation(ConversationId([0xab; 16]));
        assert_eq!(download.conversation, conversation);
        assert_eq!(download.hash, MediaHash([0xcd; 32]));
    }

    #[test]
    fn wrong_usage_is_refused() {
        let refused = |line: &str| parse(line).expect_err("it is wrong").kind();
        assert_eq!(
            refused("register alice"),
            ErrorKind::MissingRequiredArgument
        );
        assert_eq!(
            refused("register Alice --password-stdin"),
            ErrorKind::ValueValidation
        );
        assert_eq!(refused("listen --timeout soon"), ErrorKind::ValueValidation);
        assert_eq!(refused("listen --timeout -1"), ErrorKind::UnknownArgument);
        assert_eq!(refused("history bob --after 0"), ErrorKind::ValueValidation);
        assert_eq!(
            refused("--fingerprint nonsense"),
            ErrorKind::ValueValidation
        );
        assert_eq!(
            refused("upload a --to bob --type Image"),
            ErrorKind::ValueValidation
        );
        assert_eq!(refused("upload a"), ErrorKind::MissingRequiredArgument);
        assert_eq!(
            refused("upload a --to bob --no-message --text look"),
            ErrorKind::ArgumentConflict
        );
        assert_eq!(refused("download bob 12 a"), ErrorKind::ValueValidation);
        assert_eq!(refused("dance"), ErrorKind::InvalidSubcommand);
    }

    #[test]
    fn arguments_become_settings() {
        let config = parse("--data /d --accept-new-certificate")
            .expect("valid")
            .config()
            .expect("a folder is given");
        assert_eq!(config.data, Some("/d".into()));
        assert_eq!(config.certificate, CertificatePolicy::AcceptNew);
    }
}
