//! Which cells there are, and what must be true of each.

use std::sync::Arc;

use tokio::task::{JoinError, JoinSet};

use super::cell::{Cell, Fault, Kind, Mode, Outcome, Point, Run, SIZE, Scene, Source, Told, brief};
use crate::support::client::ask;

const MODES: [Mode; 5] =
    [Mode::Inline, Mode::DirectPut, Mode::Pipeline, Mode::WebSocket, Mode::WebSocketPut];

/// How many cells run beside each other. Most wait for a second attempt.
const AT_ONCE: usize = 12;

/// Whether there is such a cell at all.
fn exists(cell: &Cell) -> bool {
    let Cell { fault, source, mode, point, kind, once } = *cell;
    // A target does not pull over WebSocket.
    if mode.is_socket() && source == Source::Get {
        return false;
    }
    // What strikes again or not is a connection to the destination.
    let at_destination = match fault {
        Fault::Refused | Fault::EarlyAnswer | Fault::AnswerCut => mode.delivers(),
        Fault::Reset | Fault::Garbage => mode.delivers(),
        Fault::TransformError | Fault::ClientGone | Fault::SourceCut => false,
    };
    if once && (!at_destination || fault == Fault::Refused) {
        return false;
    }
    match fault {
        // Refused before anything was sent; the result is delivered, or not, by a destination.
        Fault::Refused => mode.delivers() && point == Point::First,
        Fault::EarlyAnswer => mode.delivers(),
        // Only a stage has an answer of any length, and only a stream of it can begin to be passed on.
        Fault::AnswerCut => mode == Mode::Pipeline || mode.delivers() && point == Point::Middle,
        // A file sends no garbage; what it sends is the object.
        Fault::Garbage => mode.delivers() || source != Source::Fqn,
        // A buffered result fails before it begins, wherever its input was.
        Fault::TransformError => kind == Kind::Streamed || point != Point::Middle,
        Fault::ClientGone | Fault::SourceCut | Fault::Reset => true,
    }
}

fn cells(fault: Fault, source: Source) -> Vec<Cell> {
    let mut cells = Vec::new();
    for mode in MODES {
        for point in [Point::First, Point::Middle, Point::Last] {
            for kind in [Kind::Streamed, Kind::Buffered] {
                for once in [false, true] {
                    let cell = Cell { fault, source, mode, point, kind, once };
                    if exists(&cell) {
                        cells.push(cell);
                    }
                }
            }
        }
    }
    cells
}

async fn all(fault: Fault, source: Source) {
    let scene = Arc::new(Scene::new().await);
    let cells = cells(fault, source);
    assert!(!cells.is_empty(), "{fault:?} {source:?} has no cells");
    let mut running = JoinSet::new();
    let mut wrong = Vec::new();
    for (number, cell) in cells.iter().copied().enumerate() {
        if running.len() == AT_ONCE {
            wrong.extend(outcome(running.join_next().await.expect("there are some")));
        }
        let scene = Arc::clone(&scene);
        running.spawn(async move {
            let run = Run { scene: &scene, cell, name: format!("object-{number:03}") };
            let outcome = run.run().await;
            let why = judge(&scene, &cell, &outcome).err()?;
            let (told, delivered) = (shown(&outcome.told), brief(&outcome.delivered));
            Some(format!("{cell}: {why}\n    told {told}; destination saw [{delivered}]"))
        });
    }
    while let Some(done) = running.join_next().await {
        wrong.extend(outcome(done));
    }
    assert!(wrong.is_empty(), "{} of {} cells:\n{}", wrong.len(), cells.len(), wrong.join("\n"));

    // No transform is left behind, and the server goes on.
    let transform = &scene.transform;
    transform.ended.reached(transform.started.count()).await;
    let health = ask(scene.etl.address, "GET", "/health", "", b"").await;
    assert_eq!((health.status, health.text().as_str()), (200, "Running"));
    let after =
        ask(scene.etl.address, "PUT", "/src/after?etl_args=streamed+-+-", "", b"GNOME").await;
    assert_eq!((after.status, after.text().as_str()), (200, "HOPNF"));
}

/// What was wrong with a cell, a panic included.
fn outcome(done: Result<Option<String>, JoinError>) -> Option<String> {
    done.unwrap_or_else(|panic| Some(panic.to_string()))
}

fn shown(told: &Told) -> String {
    match told {
        Told::Content(body) => format!("Content of {} bytes", body.len()),
        other => format!("{other:?}"),
    }
}

/// What must be true of every cell, and then of each fault.
fn judge(scene: &Scene, cell: &Cell, outcome: &Outcome) -> Result<(), String> {
    let Outcome { told, delivered } = outcome;
    let must = |is: bool, what: &str| if is { Ok(()) } else { Err(what.to_owned()) };
    let whole = md5(&scene.result);
    for seen in delivered {
        if seen.complete && seen.md5 != whole {
            return Err("an object that is not whole was complete at the destination".to_owned());
        }
    }
    let acknowledged = delivered.iter().filter(|seen| seen.acknowledged).count();
    if acknowledged > 1 {
        return Err("it was delivered twice".to_owned());
    }
    let expected_content: &[u8] = match cell.mode {
        Mode::Pipeline => b"made by the next stage",
        _ => &scene.result,
    };
    match told {
        // A stage may answer before it has read everything, if it reads everything.
        Told::Content(body) if cell.mode == Mode::Pipeline && body == b"too early" => {
            must(acknowledged == 1, "an answer to part of an object was passed on as whole")?;
        }
        Told::Content(body) if body != expected_content => {
            return Err("what is not whole came as if it were".to_owned());
        }
        Told::Content(_) if cell.mode == Mode::DirectPut => {
            return Err("content, and it was to be delivered".to_owned());
        }
        Told::Delivered if !cell.mode.delivers() => return Err("delivered nowhere".to_owned()),
        Told::Delivered if acknowledged != 1 => {
            return Err("told that it was delivered, and it was not".to_owned());
        }
        _ => {}
    }
    let succeeded = matches!(told, Told::Content(_) | Told::Delivered);
    match cell.fault {
        Fault::TransformError => {
            let early = cell.kind == Kind::Buffered || cell.point == Point::First;
            if cell.mode.delivers() || early {
                failed(told, cell, &[500], false)?;
                must(format!("{told:?}").contains("on purpose"), "without the reason")
            } else {
                must(matches!(told, Told::Cut), "a failure after the start must be seen")
            }
        }
        Fault::ClientGone => {
            must(acknowledged == 0, "delivered after its caller left in the middle")
        }
        Fault::Reset if !cell.mode.delivers() => Ok(()),
        Fault::SourceCut => must(!succeeded, "a source that was cut must be seen"),
        Fault::Garbage if !cell.mode.delivers() => must(!succeeded, "garbage must be seen"),
        Fault::Refused | Fault::Reset | Fault::Garbage | Fault::AnswerCut => {
            let chunked = cell.kind == Kind::Streamed;
            if cell.fault == Fault::AnswerCut && (cell.mode == Mode::Pipeline || chunked) {
                // The head of the answer may have been passed on already.
                return must(
                    matches!(told, Told::Cut | Told::Failed { .. }) || cell.once && succeeded,
                    "an answer that was cut must be seen",
                );
            }
            // Only bytes that came with the request cannot be sent again.
            let one_shot = cell.source == Source::Put && cell.kind == Kind::Streamed;
            if cell.once && !one_shot {
                return must(succeeded, "a second attempt was possible");
            }
            failed(told, cell, if one_shot { &[503] } else { &[502] }, one_shot)
        }
        Fault::EarlyAnswer => match (cell.kind, cell.point) {
            (Kind::Buffered, _) => must(succeeded && acknowledged == 1, "it was read to its end"),
            (Kind::Streamed, Point::Last) => match told {
                Told::Failed { status: 507 | 503 | 502 | 0, .. } => Ok(()),
                // It may fail once only.
                _ => must(cell.once && succeeded, "a refusal must be passed on"),
            },
            _ => must(!succeeded || cell.once, "half an object was taken for delivered"),
        },
    }
}

/// A failure, by the means of the way it was asked.
fn failed(told: &Told, cell: &Cell, statuses: &[u16], retry: bool) -> Result<(), String> {
    match told {
        Told::Failed { status: 0, text, .. } if cell.mode.is_socket() => {
            let said = !text.is_empty() && text != &SIZE.to_string();
            if said { Ok(()) } else { Err("the text says success".to_owned()) }
        }
        Told::Failed { status, retry: asked, text } => {
            let json: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
            if !statuses.contains(status) || *asked != retry {
                return Err(format!("expected one of {statuses:?}, to be tried again: {retry}"));
            }
            if json["detail"].as_str().is_none_or(str::is_empty) {
                return Err("no detail".to_owned());
            }
            if text.contains("s3cr3t") {
                return Err("the secret is in the error".to_owned());
            }
            Ok(())
        }
        _ => Err("a failure must be told".to_owned()),
    }
}

fn md5(data: &[u8]) -> String {
    use md5::Digest as _;
    format!("{:x}", md5::Md5::digest(data))
}

/// One test for each fault and source; its cells are named when they fail.
macro_rules! tests {
    ($($name:ident: $fault:ident $source:ident;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            all(Fault::$fault, Source::$source).await;
        }
    )*};
}

tests! {
    a_transform_that_fails_on_a_body_loses_nothing_in_silence: TransformError Put;
    a_transform_that_fails_on_a_file_loses_nothing_in_silence: TransformError Fqn;
    a_transform_that_fails_on_a_fetched_object_loses_nothing_in_silence: TransformError Get;
    a_caller_that_leaves_its_upload_delivers_nothing: ClientGone Put;
    a_caller_that_leaves_its_file_delivers_nothing: ClientGone Fqn;
    a_caller_that_leaves_its_fetched_object_delivers_nothing: ClientGone Get;
    an_upload_that_is_cut_is_never_whole: SourceCut Put;
    a_file_that_is_cut_is_never_whole: SourceCut Fqn;
    a_fetched_object_that_is_cut_is_never_whole: SourceCut Get;
    a_refusing_destination_of_a_body_is_reported: Refused Put;
    a_refusing_destination_of_a_file_is_reported: Refused Fqn;
    a_refusing_destination_of_a_fetched_object_is_reported: Refused Get;
    a_reset_with_a_body_loses_nothing_in_silence: Reset Put;
    a_reset_with_a_file_loses_nothing_in_silence: Reset Fqn;
    a_reset_with_a_fetched_object_loses_nothing_in_silence: Reset Get;
    garbage_with_a_body_loses_nothing_in_silence: Garbage Put;
    garbage_with_a_file_loses_nothing_in_silence: Garbage Fqn;
    garbage_with_a_fetched_object_loses_nothing_in_silence: Garbage Get;
    an_early_answer_to_a_body_is_not_a_delivery: EarlyAnswer Put;
    an_early_answer_to_a_file_is_not_a_delivery: EarlyAnswer Fqn;
    an_early_answer_to_a_fetched_object_is_not_a_delivery: EarlyAnswer Get;
    an_answer_to_a_body_that_is_cut_is_never_whole: AnswerCut Put;
    an_answer_to_a_file_that_is_cut_is_never_whole: AnswerCut Fqn;
    an_answer_to_a_fetched_object_that_is_cut_is_never_whole: AnswerCut Get;
}
