//! What a network can do: latency, slices of one byte, little bandwidth, silence, cuts and resets, on either side of the engine.

use std::time::Duration;

use crossdock::demo::dice::Dice;
use crossdock::demo::erp::Mode;

use super::rig::{Options, Rig, play};
use super::{Line, Setting};
use crate::support::proxy::{Harm, Proxy};

/// Between the engine and an ERP that answers probes.
pub fn to_the_erp(setting: &Setting) -> Result<Line, String> {
    play(async {
        let mut rig = Rig::set(options(setting, Mode::Probe)).await?;
        let proxy = Proxy::to(rig.erp_address())
            .await
            .map_err(|error| error.to_string())?;
        rig.engine
            .set("ERP_URL", format!("http://{}", proxy.address()));
        rig.engine.start().await?;
        harmed(rig, &proxy, setting).await
    })
}

/// Between the storefront and the engine.
pub fn from_the_storefront(setting: &Setting) -> Result<Line, String> {
    play(async {
        let mut rig = Rig::start(options(setting, Mode::Neither)).await?;
        let proxy = Proxy::to(rig.engine.address())
            .await
            .map_err(|error| error.to_string())?;
        rig.storefront_to = vec![proxy.address()];
        harmed(rig, &proxy, setting).await
    })
}

fn options(setting: &Setting, mode: Mode) -> Options {
    Options {
        mode,
        rate: 50,
        ..Options::orders(setting.scale.of(200, 3_000, 30_000), setting)
    }
}

/// Sends while one harm follows another, with a cut after each.
async fn harmed(mut rig: Rig, proxy: &Proxy, setting: &Setting) -> Result<Line, String> {
    let harms = [
        Harm {
            latency: Duration::from_millis(40),
            ..Harm::default()
        },
        Harm {
            slice: 1,
            ..Harm::default()
        },
        Harm {
            bytes_a_second: 200_000,
            ..Harm::default()
        },
        Harm {
            silent: true,
            ..Harm::default()
        },
        Harm::default(),
    ];
    let mut dice = Dice::of(setting.seed, 77);
    rig.send();
    let mut phases = 0;
    while !rig.is_sent() {
        proxy.set(harms[phases % harms.len()]);
        phases += 1;
        tokio::time::sleep(Duration::from_millis(200 + dice.below(400))).await;
        proxy.cut(dice.below(2) == 0);
    }
    proxy.set(Harm::default());
    rig.rest().await?;
    let mut line = rig.line(proxy.done()).await?;
    line.notes
        .push(format!("{phases} phases, {} connections cut", proxy.done()));
    Ok(line)
}
