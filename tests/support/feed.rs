//! A source that hands over what a test gives it, for engines that run in the test's own process.

use std::sync::Arc;
use std::time::Duration;

use crossdock::component::{Batch, Intake, Source, Verdict};
use crossdock::failure::Failure;
use crossdock::source::Ready;
use crossdock::world::Pending;
use tokio::sync::{Mutex, mpsc, oneshot};

/// A batch, and where its verdicts go. Where nobody waits for them, the source goes away in the middle of the accept.
pub type Offer = (Batch, oneshot::Sender<Result<Vec<Verdict>, Failure>>);

/// The source of these offers; it ends when nobody can offer any more.
pub fn feed(offers: mpsc::Receiver<Offer>) -> Ready {
    Ready::Runs(Arc::new(Feed(Mutex::new(offers))))
}

struct Feed(Mutex<mpsc::Receiver<Offer>>);

impl Source for Feed {
    fn run(self: Arc<Self>, cx: Intake) -> Pending<'static, Result<(), Failure>> {
        Box::pin(async move {
            let mut offers = self.0.lock().await;
            loop {
                tokio::select! {
                    () = cx.stop.cancelled() => return Ok(()),
                    offer = offers.recv() => {
                        let Some((batch, verdicts)) = offer else { return Ok(()) };
                        let accept = cx.accept.accept(batch);
                        if verdicts.is_closed() {
                            drop(tokio::time::timeout(Duration::ZERO, accept).await);
                        } else {
                            verdicts.send(accept.await).ok();
                        }
                    }
                }
            }
        })
    }
}
