//! A source that hands over what a test sends, beside the flow's own source where that only looks at files, systems or the clock.

use std::sync::Arc;

use tokio::sync::{Mutex, mpsc, oneshot};

use crate::component::{Batch, Intake, Source, Verdict};
use crate::failure::Failure;
use crate::world::Pending;

/// How many offers may wait. The test makes one at a time.
pub(super) const OFFERS_MAX: usize = 1;

/// A batch, and where its verdicts go.
pub(super) type Offer = (Batch, oneshot::Sender<Result<Vec<Verdict>, Failure>>);

/// The source of these offers.
pub(super) struct Feed {
    pub(super) offers: Mutex<mpsc::Receiver<Offer>>,
    /// The flow's own source, where it runs too.
    pub(super) own: Option<Arc<dyn Source>>,
}

impl Source for Feed {
    fn run(self: Arc<Self>, cx: Intake) -> Pending<'static, Result<(), Failure>> {
        Box::pin(async move {
            let fed = self.feed(&cx);
            match &self.own {
                None => fed.await,
                Some(own) => {
                    let own = own.clone().run(cx.clone());
                    let (fed, own) = tokio::join!(fed, own);
                    fed.and(own)
                }
            }
        })
    }

    fn answers(&self) -> bool {
        true
    }
}

impl Feed {
    async fn feed(&self, cx: &Intake) -> Result<(), Failure> {
        let mut offers = self.offers.lock().await;
        loop {
            tokio::select! {
                () = cx.stop.cancelled() => return Ok(()),
                offer = offers.recv() => {
                    let Some((batch, verdicts)) = offer else { return Ok(()) };
                    verdicts.send(cx.accept.accept(batch).await).ok();
                }
            }
        }
    }
}
