//! The numbers of an engine, sent to a collector from time to time: the same that a scrape gets.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Telemetry;
use super::traces::collector;
use crate::failure::Failure;
use crate::flow::settings::Otlp;
use crate::net::otlp::metrics_url;
use crate::net::otlp::numbers::Numbers;
use crate::world::metrics::text::Form;

/// The shortest time between two sendings.
const LEAST: Duration = Duration::from_secs(1);

/// What sends the numbers until the stop, and once more then; `None` if the settings do not ask for it.
pub(in crate::run) fn sending(
    telemetry: Telemetry,
    given: Option<&Otlp>,
    who: &str,
    stop: CancellationToken,
) -> Result<Option<impl Future<Output = ()> + Send + 'static>, Failure> {
    let Some((given, every)) = given.and_then(|given| Some((given, given.metrics?))) else {
        return Ok(None);
    };
    let url = metrics_url(&given.endpoint).map_err(Failure::config)?;
    let world = telemetry.shared.world.clone();
    let now_ns = move || u64::try_from(world.clock.now_ms()).unwrap_or(0) * 1_000_000;
    let numbers = Numbers::to(collector(given, url, who)?, now_ns())?;
    let every = every.std().max(LEAST);
    Ok(Some(async move {
        loop {
            let stopped = tokio::select! {
                () = tokio::time::sleep(every) => false,
                () = stop.cancelled() => true,
            };
            let text = telemetry.scrape(Form::Open).await;
            let sent = numbers.send(&text, now_ns()).await;
            telemetry.shared.world.metrics.pushed(sent);
            if stopped {
                return;
            }
        }
    }))
}
