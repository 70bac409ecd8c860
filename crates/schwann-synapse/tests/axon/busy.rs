//! Who waits for whom when there is more to do than room.

use std::{
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};

use schwann::BlockingPool;
use schwann_synapse::{
    Synapse,
    axon::{Route, SynapseError, unary_blocking, untyped},
    caller::Caller,
    python::Value,
    synapse::Untyped,
};
use schwann_testkit::{Gate, Probe, gate, probe};
use serde::{Deserialize, Serialize};

use crate::running::{Running, builder, empty, serve, told};

/// A route whose calls pass a gate one by one, ordered by what they ask for.
fn ordered(entered: &Probe, waiting: &Probe, hold: &Gate, order: &Arc<Mutex<Vec<f64>>>) -> Route {
    let (entered, waiting, hold, order) =
        (entered.clone(), waiting.clone(), hold.clone(), Arc::clone(order));
    untyped("Ordered")
        .unary(move |ask: Untyped, caller: Caller| {
            let (entered, hold, order) = (entered.clone(), hold.clone(), Arc::clone(&order));
            async move {
                order.lock().unwrap().push(wanted(&caller));
                entered.hit();
                hold.pass().await;
                Ok::<_, SynapseError>(ask)
            }
        })
        .priority(move |caller| {
            waiting.hit();
            wanted(caller)
        })
}

/// The priority that a test's caller asks for: what its timeout, in seconds, is beyond a thousand.
fn wanted(caller: &Caller) -> f64 {
    caller.headers.timeout.unwrap_or_default() - 1000.0
}

struct Crowd {
    axon: Running,
    entered: Probe,
    waiting: Probe,
    hold: Gate,
    order: Arc<Mutex<Vec<f64>>>,
}

impl Crowd {
    async fn new(running: usize, waiting: usize) -> Self {
        let (entered, asked, hold, order) = (probe(), probe(), gate(), Arc::default());
        let route = ordered(&entered, &asked, &hold, &order);
        let axon = serve(builder().attach(route).room(running, waiting)).await;
        Self { axon, entered, waiting: asked, hold, order }
    }

    /// A call of this priority, which has run or waits when this returns.
    async fn call(&self, priority: f64) -> tokio::task::JoinHandle<Result<(), (i64, String)>> {
        let before = self.waiting.count();
        let call = self.axon.dendrite.call(self.axon.target(), empty("Ordered"));
        let call = call.timeout(Duration::from_secs_f64(1000.0 + priority));
        let call = tokio::spawn(async move {
            match call.await {
                Ok(_) => Ok(()),
                Err(error) => Err(told(Err(error))),
            }
        });
        // The queue is entered in the same poll in which the priority is asked for; this runtime has one thread.
        self.waiting.reached(before + 1).await;
        call
    }
}

#[tokio::test]
async fn w23_the_highest_priority_runs_next() {
    let crowd = Crowd::new(1, 100).await;
    let mut calls = vec![crowd.call(0.0).await];
    crowd.entered.reached(1).await;
    for priority in [5.0, 1.0, 500.0, 10.0, 100.0, 50.0, 1.0] {
        calls.push(crowd.call(priority).await);
    }
    for ended in 1..=calls.len() {
        crowd.entered.reached(ended).await;
        assert_eq!(crowd.entered.count(), ended, "more than one ran at a time");
        crowd.hold.open();
    }
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(*crowd.order.lock().unwrap(), [0.0, 500.0, 100.0, 50.0, 10.0, 5.0, 1.0, 1.0]);
}

#[tokio::test]
async fn a_full_queue_is_503_and_gives_way_to_higher_priorities() {
    let crowd = Crowd::new(1, 1).await;
    let first = crowd.call(1.0).await;
    crowd.entered.reached(1).await;
    let low = crowd.call(1.0).await;
    let equal = crowd.call(1.0).await;
    let full = (503, "Service busy: the queue is full".to_owned());
    assert_eq!(equal.await.unwrap(), Err(full));
    let high = crowd.call(2.0).await;
    let outranked = (503, "Service busy: calls of higher priority took all places".to_owned());
    assert_eq!(low.await.unwrap(), Err(outranked));
    crowd.hold.open();
    first.await.unwrap().unwrap();
    crowd.hold.open();
    high.await.unwrap().unwrap();
}

#[tokio::test]
async fn who_waits_past_the_deadline_gets_408() {
    let (hold, entered) = (gate(), probe());
    let route = {
        let (hold, entered) = (hold.clone(), entered.clone());
        untyped("Slow").unary(move |ask: Untyped, _| {
            let (hold, entered) = (hold.clone(), entered.clone());
            async move {
                entered.hit();
                hold.pass().await;
                Ok::<_, SynapseError>(ask)
            }
        })
    };
    let quick = untyped("Quick").unary(async |ask: Untyped, _| Ok::<_, SynapseError>(ask));
    let quick = quick.timeout(Duration::from_millis(100));
    let axon = serve(builder().attach(route).attach(quick).room(1, 10)).await;
    let slow = tokio::spawn(axon.dendrite.call(axon.target(), empty("Slow")).into_future());
    entered.reached(1).await;
    let late = (408, "Response timeout after: 0.1s".to_owned());
    assert_eq!(axon.refusal("Quick").await, late);
    hold.open();
    slow.await.unwrap().unwrap();
    axon.call("Quick").await.unwrap();
}

#[tokio::test]
async fn the_deadline_is_the_smaller_of_the_callers_and_the_routes() {
    let stopped = probe();
    let route = |name: &str, seconds: f64| {
        let stopped = stopped.clone();
        untyped(name)
            .unary(move |_: Untyped, caller: Caller| {
                let guard = stopped.on_drop();
                async move {
                    let _guard = guard;
                    assert!(caller.timeout <= Duration::from_millis(200), "{:?}", caller.timeout);
                    std::future::pending::<Result<Untyped, SynapseError>>().await
                }
            })
            .timeout(Duration::from_secs_f64(seconds))
    };
    let axon = serve(builder().attach(route("Short", 0.1)).attach(route("Long", 60.0))).await;
    let late = (408, "Response timeout after: 0.1s".to_owned());
    assert_eq!(axon.refusal("Short").await, late);
    assert_eq!(stopped.count(), 1);
    // A caller that waits for less. It is read from the wire, where no limit of its own is in the way.
    let begun = Instant::now();
    let mut stream = axon.begin("Long", "0.15").await;
    let seen = crate::running::until(&mut stream, "}").await;
    assert!(seen.contains("408") && seen.contains("Response timeout after: 0.15s"), "{seen}");
    assert!(begun.elapsed() >= Duration::from_millis(150) && stopped.count() == 2);
}

#[derive(Clone, Serialize, Deserialize, Synapse)]
struct Computing {
    #[serde(default)]
    seconds: i64,
}

/// Holds threads until it is opened, for good.
#[derive(Default)]
struct Dam(Mutex<bool>, Condvar);

impl Dam {
    fn wait(&self) {
        let open = self.0.lock().unwrap();
        drop(self.1.wait_while(open, |open| !*open).unwrap());
    }

    fn open(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }
}

fn computing(entered: &Probe, dam: &Arc<Dam>) -> Route {
    let (entered, dam) = (entered.clone(), Arc::clone(dam));
    unary_blocking(move |mut ask: Computing, _| {
        entered.hit();
        dam.wait();
        ask.seconds = 1;
        Ok::<_, SynapseError>(ask)
    })
}

/// On a runtime of one thread, which a handler that blocks would take from all others.
#[tokio::test]
async fn w18_synchronous_handlers_block_nobody() {
    let (entered, dam) = (probe(), Arc::new(Dam::default()));
    let quick = untyped("Quick").unary(async |ask: Untyped, _| Ok::<_, SynapseError>(ask));
    let axon = serve(builder().attach(computing(&entered, &dam)).attach(quick)).await;
    let mut calls = Vec::new();
    for _ in 0..4 {
        let call = axon.dendrite.call(axon.target(), empty("Computing"));
        calls.push(tokio::spawn(call.into_future()));
    }
    entered.reached(4).await;
    for _ in 0..10 {
        axon.call("Quick").await.unwrap();
    }
    dam.open();
    for call in calls {
        let answer = call.await.unwrap().unwrap();
        assert_eq!(answer.synapse.fields.get("seconds"), Some(&Value::from(1)));
    }
}

#[tokio::test]
async fn a_full_pool_is_503_and_a_late_thread_is_408() {
    let (entered, dam) = (probe(), Arc::new(Dam::default()));
    let route = computing(&entered, &dam).timeout(Duration::from_millis(200));
    let axon = serve(builder().attach(route).pool(BlockingPool::new(1, 0))).await;
    let first = tokio::spawn(axon.dendrite.call(axon.target(), empty("Computing")).into_future());
    entered.reached(1).await;
    assert_eq!(axon.refusal("Computing").await.0, 503);
    assert_eq!(told(first.await.unwrap()), (408, "Response timeout after: 0.2s".to_owned()));
    dam.open();
}
