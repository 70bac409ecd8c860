//! What a run's program is given: what its request asks for, within what the settings allow.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use schwann_process::{Limits, ProgramSpec, Sandbox, Span, TerminalSize};
use serde::{Deserialize, Serialize};

use super::{Inner, lock};
use crate::{
    record::{Reason, Start},
    runner::Job,
    store::{Face, Run},
};

/// What a request says about how a run is run.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct RunRequest {
    pub(crate) stdin: Option<String>,
    pub(crate) args: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) terminal: Option<TerminalSize>,
    pub(crate) wall_ms: Option<u64>,
    pub(crate) cpu_ms: Option<u64>,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) output_bytes: Option<u64>,
    /// By what it is called, if as published.
    pub(crate) face: Option<Face>,
    /// Who calls it then.
    pub(crate) caller: Option<String>,
    /// Whether its program gets the outlet. Said by the card, and not by the request.
    pub(crate) outlet: bool,
}

/// The work folder of all programs in sandboxes, which get copies of it.
pub(super) const EMPTY: &str = "empty";

impl Inner {
    pub(super) fn job(&self, run: &Run) -> Result<Job, Reason> {
        let language = self.languages.get(&run.language).ok_or(Reason::StartFailed)?;
        let request: RunRequest =
            serde_json::from_value(run.request.clone()).map_err(|_| Reason::StartFailed)?;
        if run.code.len() as u64 > self.max_code {
            return Err(Reason::StartFailed);
        }
        let file = format!("main.{}", language.extension);
        let command = language.command_for(&file, &request.args);
        let sandbox = *self.sandbox.as_ref().map_err(|_| Reason::StartFailed)?;
        // In a sandbox it gets its file and nothing else, and no folder of the host.
        let folder = match sandbox {
            Sandbox::None => self.work.join(run.id.to_string()),
            _ => self.work.join(EMPTY),
        };
        let mut spec = ProgramSpec::new(command, folder, sandbox);
        spec.files = vec![(file.into(), run.code.clone().into())];
        spec.environment.clone_from(&language.environment);
        let outlet = match &self.outlet {
            Ok(outlet) if request.outlet => {
                Some((outlet.clone(), self.work.join(format!("{}.outlet", run.id))))
            }
            // Refused when it was started, if it was asked for.
            _ => None,
        };
        spec.environment.extend(request.env);
        spec.read_only.clone_from(&language.read_only);
        spec.terminal = request.terminal;
        let least = |own: Option<u64>, most: u64| own.unwrap_or(most).clamp(1, most);
        let most = &self.limits;
        let span =
            |own, most: Span| Span::from_millis(least(own, most.duration().as_millis() as u64));
        let size = |own, most: schwann_process::ByteSize| {
            schwann_process::ByteSize::new(least(own, most.bytes()))
        };
        spec.limits = Limits {
            wall: span(request.wall_ms, most.wall),
            cpu: span(request.cpu_ms, most.cpu),
            memory: size(request.memory_bytes, most.memory),
            output: size(request.output_bytes, most.output),
            ..*most
        };
        Ok(Job {
            outlet,
            start: Start {
                run_id: run.id,
                card_id: run.card_id,
                language: run.language.clone(),
                sandbox: run.sandbox.clone(),
            },
            spec,
            stdin: request.stdin.map(Bytes::from),
            stopping: lock(&self.state)
                .active
                .get(&run.id)
                .map(|active| Arc::clone(&active.stopping))
                .unwrap_or_default(),
        })
    }
}
