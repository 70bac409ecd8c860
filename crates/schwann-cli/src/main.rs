//! The `schwann` binary.

mod args;
mod axon;
mod call;
mod cards;
mod config;
mod doctor;
mod etl;
mod etl_settings;
mod faces;
mod held;
mod key;
mod outlet;
mod problem;
mod program;
mod routes;
mod up;

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
};

use clap::{Parser, error::ErrorKind};
use tracing_subscriber::EnvFilter;

use crate::{
    args::{Cli, Command, ConfigCommand},
    config::Config,
    problem::{Problem, print, print_line},
};

fn main() -> ExitCode {
    let done = match Cli::try_parse() {
        Ok(cli) => run(cli),
        Err(error) if error.use_stderr() => Err(usage(&error)),
        // Help and version are what was asked for.
        Err(help) => print(help.to_string()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => problem.report(),
    }
}

fn run(cli: Cli) -> Result<(), Problem> {
    let config = Config::load(cli.config.clone(), cli.flags())?;
    log(&config, &cli.command)?;
    match cli.command {
        Command::Up(_) => block_on(up::run(&config, cli.json)),
        Command::Axon(_) => block_on(axon::run(&config, cli.json)),
        Command::Cards(_) => block_on(cards::run(&config, cli.json)),
        Command::Etl(_) => block_on(etl::run(&config, cli.json)),
        Command::Call(args) => block_on(call::run(args, &config, cli.json)),
        Command::Doctor(args) => block_on(doctor::run(args, &config, cli.json)),
        Command::Key { command, .. } => key::run(command, &config, cli.json),
        Command::Config { command: ConfigCommand::Show } => config.show(cli.json),
        Command::Config { command: ConfigCommand::Check } => check(&config, cli.json),
    }
}

/// Reads everything that serving would need, and says that it is good.
fn check(config: &Config, json: bool) -> Result<(), Problem> {
    let servers = config.servers()?;
    etl::Transform::of(config)?;
    if config.settings.key.is_set() {
        key::load(&config.settings.key)?;
    }
    let names: Vec<_> = servers.iter().map(|(route, _)| &route.name).collect();
    if json {
        return print_line(serde_json::json!({
            "ok": true,
            "file": config.file,
            "synapses": names,
        }));
    }
    let file = config.file.as_ref().map(|file| file.display().to_string());
    let file = file.as_deref().unwrap_or("the defaults (there is no file)");
    match names.len() {
        1 => print_line(format!("ok: {file}: 1 synapse")),
        many => print_line(format!("ok: {file}: {many} synapses")),
    }
}

fn block_on(work: impl Future<Output = Result<(), Problem>>) -> Result<(), Problem> {
    tokio::runtime::Builder::new_multi_thread()
        .event_interval(schwann::EVENT_INTERVAL)
        .enable_all()
        .build()
        .map_err(|error| Problem::failed(format!("cannot start threads: {error}")))?
        .block_on(work)
}

fn log(config: &Config, command: &Command) -> Result<(), Problem> {
    let quiet = match command {
        Command::Up(_) | Command::Axon(_) | Command::Etl(_) | Command::Cards(_) => "info",
        _ => "warn",
    };
    let filter = EnvFilter::try_new(config.settings.log.as_deref().unwrap_or(quiet));
    let filter = filter.map_err(|error| Problem::usage(format!("log: {error}")))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match io::stderr().is_terminal() {
        true => log.init(),
        // Colours in a file are noise.
        false => log.with_ansi(false).init(),
    }
    Ok(())
}

/// What was typed wrong, as one line.
fn usage(error: &clap::Error) -> Problem {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return Problem::usage("say what to do").hint("`--help` lists the commands");
    }
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    // After the first paragraph come tips and usage.
    let mut paragraphs = text.split("\n\n");
    let said = paragraphs.next().unwrap_or_default();
    let said: Vec<_> = said.split_whitespace().collect();
    let mut problem = Problem::usage(said.join(" "));
    for tip in paragraphs.filter_map(|text| text.trim().strip_prefix("tip: ")) {
        problem = problem.hint(tip);
    }
    problem.hint("`--help` after the command shows what can be written")
}
