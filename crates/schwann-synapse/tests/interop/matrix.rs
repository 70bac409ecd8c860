//! All cases in both directions, and the SDK with itself: if that one fails,
//! the fault is not ours.

use crate::ends::{End, our_axon, our_dendrite};

const CASES: usize = 20;

async fn passes(dendrite: End, axon: End) {
    let axon = axon.serve().await;
    let report = dendrite.call(&axon).await;
    report.expect_all(CASES);
}

macro_rules! version {
    ($name:ident, $interpreter:literal) => {
        mod $name {
            use super::{End, our_axon, our_dendrite, passes};

            fn axon() -> End {
                End::python($interpreter, "py_axon.py")
            }

            fn dendrite() -> End {
                End::python($interpreter, "py_dendrite.py")
            }

            #[tokio::test]
            async fn its_dendrite_calls_our_axon() {
                passes(dendrite(), our_axon()).await;
            }

            #[tokio::test]
            async fn our_dendrite_calls_its_axon() {
                passes(our_dendrite(), axon()).await;
            }

            #[tokio::test]
            async fn it_agrees_with_itself() {
                passes(dendrite(), axon()).await;
            }
        }
    };
}

version!(sdk_7_4, "SCHWANN_PEER_SDK_7_4");
version!(sdk_8_5, "SCHWANN_PEER_SDK_8_5");
version!(sdk_9_12, "SCHWANN_PEER_SDK_9_12");
version!(sdk_10_5, "SCHWANN_PEER_SDK_10_5");

#[tokio::test]
async fn our_dendrite_calls_our_axon() {
    passes(our_dendrite(), our_axon()).await;
}

/// Bound signatures are ours alone. The SDK's axons do not mind them.
#[tokio::test]
async fn our_dendrite_calls_the_newest_axon_with_bound_signatures() {
    let axon = End::python("SCHWANN_PEER_SDK_10_5", "py_axon.py").serve().await;
    our_dendrite().call_with(&["--bound"], &axon).await.expect_all(CASES);
}

#[tokio::test]
async fn our_dendrite_calls_our_axon_with_bound_signatures() {
    let axon = our_axon().serve().await;
    our_dendrite().call_with(&["--bound"], &axon).await.expect_all(CASES);
}
