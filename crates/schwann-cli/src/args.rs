//! What can be typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::Flag;

/// Any function as a signed, cancellable stream over HTTP.
#[derive(Debug, Parser)]
#[command(name = "schwann", version, propagate_version = true, disable_help_subcommand = true)]
#[command(after_help = "Settings come from one file, then SCHWANN_* variables, then flags; \
                        later wins.\nExit codes: 0 done, 1 the call failed, 2 wrong usage or \
                        configuration.")]
pub(crate) struct Cli {
    /// The configuration file; ./schwann.toml if it is there.
    #[arg(long, global = true, value_name = "FILE", display_order = 100)]
    pub(crate) config: Option<PathBuf>,

    /// Print one JSON object instead of text for people.
    #[arg(long, global = true, display_order = 101)]
    pub(crate) json: bool,

    /// What is logged to stderr: error, warn, info, debug, trace.
    #[arg(long, global = true, value_name = "LEVEL", display_order = 102)]
    log: Option<String>,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve books of code cards, and sample synapses or those of the file, with what is needed to try them.
    Up(UpArgs),
    /// Serve the synapses of a file: programs, HTTP upstreams and builtins.
    Axon(ServeArgs),
    /// Serve books of code cards: page and API.
    Cards(CardsArgs),
    /// Transform the objects of an AIStore cluster, by a builtin or a program.
    Etl(EtlArgs),
    /// Call a synapse.
    Call(CallArgs),
    /// Make, show and use keys.
    Key {
        #[command(flatten)]
        key: OwnKeyFlags,
        #[command(subcommand)]
        command: KeyCommand,
    },
    /// Find out why a call is refused.
    Doctor(DoctorArgs),
    /// Show or check the configuration.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a new key and print its words. It is stored only with --wallet.
    New,
    /// Print the address of the key that is set.
    Show,
    /// Sign a message.
    Sign {
        /// The message; `-` reads it from stdin.
        message: String,
    },
    /// Check a signature.
    Verify {
        /// The message; `-` reads it from stdin.
        message: String,
        /// 0x and 128 hexadecimal digits.
        signature: String,
        /// Whose signature it should be, as an ss58 address.
        #[arg(value_name = "SS58")]
        whose: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print every setting, its value and where it comes from.
    Show,
    /// Check the file, its programs and upstreams, without serving.
    Check,
}

/// Who signs.
#[derive(Debug, Args)]
struct KeyFlags {
    /// A secret URI, such as //Alice. Other processes can see it: prefer
    /// SCHWANN_KEY_URI for real keys.
    #[arg(long, global = true, value_name = "URI", conflicts_with = "wallet")]
    key_uri: Option<String>,
    /// A wallet's name.
    #[arg(long, global = true, value_name = "NAME")]
    wallet: Option<String>,
    /// The folder of wallets.
    #[arg(long, global = true, value_name = "DIR")]
    wallet_path: Option<String>,
}

/// Who signs, where no other hotkey is meant.
#[derive(Debug, Args)]
pub(crate) struct OwnKeyFlags {
    #[command(flatten)]
    key: KeyFlags,
    /// The wallet's hotkey that signs.
    #[arg(long, global = true, value_name = "NAME", alias = "wallet-hotkey")]
    hotkey: Option<String>,
}

/// Who signs, where --hotkey is the axon's.
#[derive(Debug, Args)]
pub(crate) struct CallerKeyFlags {
    #[command(flatten)]
    key: KeyFlags,
    /// The wallet's hotkey that signs.
    #[arg(long, value_name = "NAME")]
    wallet_hotkey: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Where to listen; port 0 picks a free one.
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Where metrics are served, in Prometheus text form.
    #[arg(long, value_name = "ADDR")]
    metrics: Option<String>,
    #[command(flatten)]
    key: OwnKeyFlags,
}

#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    axon: ServeArgs,
    /// Where the page of the cards is; port 0 picks a free one.
    #[arg(long, value_name = "ADDR")]
    cards: Option<String>,
    /// The folder of the cards' database and of what runs print.
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CardsArgs {
    /// Where to listen; port 0 picks a free one.
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Where metrics are served, in Prometheus text form.
    #[arg(long, value_name = "ADDR")]
    metrics: Option<String>,
    /// The folder of the database and of what runs print.
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct EtlArgs {
    /// Where to listen; port 0 picks a free one.
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Where metrics are served, in Prometheus text form.
    #[arg(long, value_name = "ADDR")]
    metrics: Option<String>,
    /// Transform by this builtin: echo, md5, sha256, upper, gzip, gunzip, zstd or unzstd.
    #[arg(long, value_name = "NAME", conflicts_with = "command")]
    builtin: Option<String>,
    /// Transform by this program: it reads the object on stdin and writes the result on stdout.
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CallArgs {
    /// The axon, as http://HOST:PORT. Left out with --many.
    #[arg(value_name = "URL")]
    pub(crate) first: String,
    /// The synapse.
    #[arg(value_name = "NAME")]
    pub(crate) second: String,
    /// Its fields; `-` reads them from stdin.
    #[arg(value_name = "JSON")]
    pub(crate) third: Option<String>,
    /// The axon's hotkey, as an ss58 address: the call is signed for it.
    #[arg(long, value_name = "SS58")]
    pub(crate) hotkey: Option<String>,
    #[command(flatten)]
    key: CallerKeyFlags,
    /// Print the answer's bytes as they arrive.
    #[arg(long)]
    pub(crate) stream: bool,
    /// Fields to hash, in the order of the synapse's class.
    #[arg(long, value_name = "FIELDS", value_delimiter = ',')]
    pub(crate) hash: Vec<String>,
    /// Fields that the synapse's class requires.
    #[arg(long, value_name = "FIELDS", value_delimiter = ',')]
    pub(crate) required: Vec<String>,
    #[command(flatten)]
    pub(crate) how: HowArgs,
    /// Call every axon of a JSON list of {ip, port, hotkey}, and print a line
    /// for each as it completes.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["stream", "hotkey"])]
    pub(crate) many: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct HowArgs {
    /// Longest call, such as 12s.
    #[arg(long, value_name = "SPAN", allow_hyphen_values = true)]
    timeout: Option<String>,
    /// How the request says who it is from.
    #[arg(long, value_enum)]
    protocol: Option<ProtocolArg>,
    /// Sign the whole v10 request too: route, method, timeout and body.
    #[arg(long)]
    bound: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ProtocolArg {
    V10,
    Btauth,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// The axon, as http://HOST:PORT.
    pub(crate) url: String,
    /// The synapse.
    pub(crate) name: String,
    /// Its fields; `-` reads them from stdin.
    #[arg(default_value = "{}", value_name = "JSON")]
    pub(crate) fields: String,
    /// The hotkey the axon is believed to have.
    #[arg(long, value_name = "SS58")]
    pub(crate) hotkey: String,
    #[command(flatten)]
    key: CallerKeyFlags,
    /// Also see whether a stream arrives piece by piece.
    #[arg(long)]
    pub(crate) stream: bool,
    /// Fields to hash, in the order of the synapse's class.
    #[arg(long, value_name = "FIELDS", value_delimiter = ',')]
    pub(crate) hash: Vec<String>,
    #[command(flatten)]
    pub(crate) how: HowArgs,
}

impl Cli {
    /// The settings that were made by flags.
    pub(crate) fn flags(&self) -> Vec<Flag> {
        let mut flags = Vec::new();
        add(&mut flags, "log", "--log", &self.log);
        match &self.command {
            Command::Call(args) => {
                args.key.flags(&mut flags);
                args.how.flags(&mut flags);
            }
            Command::Doctor(args) => {
                args.key.flags(&mut flags);
                args.how.flags(&mut flags);
            }
            Command::Key { key, .. } => key.flags(&mut flags),
            Command::Up(args) => {
                args.axon.flags(&mut flags);
                add(&mut flags, "cards.listen", "--cards", &args.cards);
                add(&mut flags, "cards.data", "--data", &args.data);
            }
            Command::Axon(args) => args.flags(&mut flags),
            Command::Cards(args) => {
                add(&mut flags, "cards.listen", "--listen", &args.listen);
                add(&mut flags, "cards.metrics", "--metrics", &args.metrics);
                add(&mut flags, "cards.data", "--data", &args.data);
            }
            Command::Etl(args) => {
                add(&mut flags, "etl.listen", "--listen", &args.listen);
                add(&mut flags, "etl.metrics", "--metrics", &args.metrics);
                add(&mut flags, "etl.builtin", "--builtin", &args.builtin);
                let command = (!args.command.is_empty())
                    .then(|| serde_json::Value::from(args.command.clone()).to_string());
                add(&mut flags, "etl.command", "--", &command);
            }
            Command::Config { .. } => {}
        }
        flags
    }
}

impl ServeArgs {
    fn flags(&self, flags: &mut Vec<Flag>) {
        add(flags, "axon.listen", "--listen", &self.listen);
        add(flags, "axon.metrics", "--metrics", &self.metrics);
        self.key.flags(flags);
    }
}

impl KeyFlags {
    fn flags(&self, flags: &mut Vec<Flag>) {
        add(flags, "key.uri", "--key-uri", &self.key_uri);
        add(flags, "key.wallet", "--wallet", &self.wallet);
        add(flags, "key.wallet_path", "--wallet-path", &self.wallet_path);
    }
}

impl OwnKeyFlags {
    fn flags(&self, flags: &mut Vec<Flag>) {
        self.key.flags(flags);
        add(flags, "key.hotkey", "--hotkey", &self.hotkey);
    }
}

impl CallerKeyFlags {
    fn flags(&self, flags: &mut Vec<Flag>) {
        self.key.flags(flags);
        add(flags, "key.hotkey", "--wallet-hotkey", &self.wallet_hotkey);
    }
}

impl HowArgs {
    fn flags(&self, flags: &mut Vec<Flag>) {
        add(flags, "call.timeout", "--timeout", &self.timeout);
        let protocol = self.protocol.map(|protocol| match protocol {
            ProtocolArg::V10 => "v10".to_owned(),
            ProtocolArg::Btauth => "btauth".to_owned(),
        });
        add(flags, "call.protocol", "--protocol", &protocol);
        add(flags, "call.bound", "--bound", &self.bound.then(|| "true".to_owned()));
    }
}

fn add(flags: &mut Vec<Flag>, key: &'static str, name: &'static str, text: &Option<String>) {
    flags.extend(text.iter().map(|text| Flag { key, name, text: text.clone() }));
}
