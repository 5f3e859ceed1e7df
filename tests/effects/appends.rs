//! What the engine does with a growing file or a stream when it dies or a part breaks. Both are in memory, the store is real.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use crossdock::component::{Append, Appending, Context};
use crossdock::failure::{Class, Failure};
use crossdock::flow::plan::Action;
use crossdock::message::Message;
use crossdock::sink::Stream;
use crossdock::world::Pending;

use super::{ORDER, dies, rig_of};

/// A file in memory that grows; the first write may never come back, and a line may break the part.
#[derive(Clone, Default)]
struct Growing {
    bytes: Arc<Mutex<Vec<u8>>>,
    hangs: bool,
    breaks: bool,
}

impl Growing {
    fn text(&self) -> String {
        String::from_utf8(self.bytes.lock().unwrap().clone()).unwrap()
    }
}

impl Append for Growing {
    fn prepare(&self, message: &Message, _: &Context<'_>) -> Result<(String, Bytes), Failure> {
        assert!(
            !self.breaks || message.body.len() != ORDER.len(),
            "scripted"
        );
        let line = [&message.body.bytes()[..], b"\n"].concat();
        Ok(("orders.jsonl".to_owned(), Bytes::from(line)))
    }

    fn open<'a>(&'a self, _: &'a str) -> Pending<'a, Result<Box<dyn Appending>, Failure>> {
        let file: Box<dyn Appending> = Box::new(self.clone());
        Box::pin(std::future::ready(Ok(file)))
    }
}

impl Appending for Growing {
    fn length(&self) -> u64 {
        self.bytes.lock().unwrap().len() as u64
    }

    fn cut(&mut self, length: u64) -> Pending<'_, Result<(), Failure>> {
        self.bytes.lock().unwrap().truncate(length as usize);
        Box::pin(std::future::ready(Ok(())))
    }

    fn write<'a>(&'a mut self, bytes: Bytes) -> Pending<'a, Result<(), Failure>> {
        Box::pin(async move {
            self.bytes.lock().unwrap().extend_from_slice(&bytes);
            if self.hangs {
                std::future::pending::<()>().await;
            }
            Ok(())
        })
    }
}

#[tokio::test]
async fn a_line_is_in_its_file_once_whatever_the_file_was_before_a_crash() {
    for (before, rotated) in [("", false), ("theirs\n", false), ("", true)] {
        let folder = tempfile::tempdir().unwrap();
        let file = Growing::default();
        if rotated {
            let rig = rig_of(
                folder.path(),
                Action::Append(Arc::new(file.clone())),
                Vec::new(),
            )
            .await;
            rig.offer(&[r#"{"n":"1","text":"longer than the order that comes next"}"#])
                .await;
            rig.rest().await;
            rig.stop().await;
        }
        *file.bytes.lock().unwrap() = before.as_bytes().to_vec();
        let written = file.clone();
        let hangs = Growing {
            hangs: true,
            ..file.clone()
        };
        let begun = move || written.text().contains(ORDER);
        dies(folder.path(), Action::Append(Arc::new(hangs)), begun).await;
        let again = rig_of(
            folder.path(),
            Action::Append(Arc::new(file.clone())),
            Vec::new(),
        )
        .await;
        again.rest().await;
        again.stop().await;
        assert_eq!(
            file.text(),
            format!("{before}{ORDER}\n"),
            "rotated: {rotated}"
        );
    }
}

#[tokio::test]
async fn a_line_that_breaks_the_part_waits_for_a_person_and_the_others_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let file = Growing {
        breaks: true,
        ..Growing::default()
    };
    let rig = rig_of(
        folder.path(),
        Action::Append(Arc::new(file.clone())),
        Vec::new(),
    )
    .await;
    let other = r#"{"n":"2"}"#;
    rig.offer(&[ORDER, other]).await;
    let counts = rig.rest().await;
    assert_eq!((counts.delivered, counts.in_exceptions), (1, 1));
    assert_eq!(rig.exceptions().await[0].class, Class::Internal);
    assert_eq!(file.text(), format!("{other}\n"));
    rig.stop().await;
}

/// A stream that refuses orders and breaks at one message.
#[derive(Default)]
struct Shown(Mutex<Vec<usize>>);

impl Stream for Shown {
    fn write<'a>(&'a self, messages: &'a [Message]) -> Pending<'a, Result<(), Failure>> {
        Box::pin(async move {
            let sizes: Vec<usize> = messages.iter().map(|message| message.body.len()).collect();
            assert!(!sizes.contains(&BREAKS.len()), "scripted");
            if sizes.contains(&ORDER.len()) {
                return Err(Failure::new(Class::Parse, "an order is no line"));
            }
            self.0.lock().unwrap().extend(sizes);
            Ok(())
        })
    }
}

const BREAKS: &str = r#"{"n":"breaks"}"#;

#[tokio::test]
async fn what_a_stream_cannot_write_does_not_take_the_others_along() {
    let folder = tempfile::tempdir().unwrap();
    let shown = Arc::new(Shown::default());
    let rig = rig_of(folder.path(), Action::Stream(shown.clone()), Vec::new()).await;
    let others = [r#"{"n":"2"}"#, r#"{"n":"30"}"#];
    rig.offer(&[others[0], ORDER, BREAKS, others[1]]).await;
    let counts = rig.rest().await;
    assert_eq!((counts.delivered, counts.in_exceptions), (2, 2));
    let mut classes: Vec<_> = rig.exceptions().await.iter().map(|one| one.class).collect();
    classes.sort();
    assert_eq!(classes, [Class::Parse, Class::Internal]);
    assert_eq!(*shown.0.lock().unwrap(), others.map(str::len));
    rig.stop().await;
}
