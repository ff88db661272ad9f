//! The agents' channel as nodes that were booted long ago still speak it. The transcripts beside this
//! file are never changed, only added to: an older agent must go on working with a newer haasd.

use haas_api::agent::{Frame, Hello, HelloAnswer, ToAgent, ToController};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// Reads each line as `T`, and as one with fields that only later versions know. Whatever a line says
/// must be there again when it is written.
fn reads_all<T: Serialize + DeserializeOwned>(transcript: &str) {
    assert!(!transcript.is_empty());
    for line in transcript.lines() {
        let said: Value = serde_json::from_str(line).expect("a transcript is JSON");
        let read: T = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        let written = serde_json::to_value(&read).expect("frames are plain data");
        assert_keeps(&said, &written, line);
        let later: T = serde_json::from_value(with_more(said.clone()))
            .unwrap_or_else(|e| panic!("a field that is not known yet: {e}: {line}"));
        assert_keeps(&said, &serde_json::to_value(&later).expect("plain data"), line);
    }
}

/// Everything in `old` stands in `new` too, which may say more.
#[track_caller]
fn assert_keeps(old: &Value, new: &Value, line: &str) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            for (key, value) in old {
                let kept = new.get(key).unwrap_or_else(|| panic!("{key} is lost: {line}"));
                assert_keeps(value, kept, line);
            }
        }
        (Value::Array(old), Value::Array(new)) => {
            assert_eq!(old.len(), new.len(), "{line}");
            old.iter().zip(new).for_each(|(old, new)| assert_keeps(old, new, line));
        }
        (old, new) => assert_eq!(old, new, "{line}"),
    }
}

/// The message with a field of the future in its records. An object with one key may be an enum,
/// whose key is its variant, so it gets none.
fn with_more(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let is_record = fields.len() > 1;
            let mut fields: serde_json::Map<_, _> =
                fields.into_iter().map(|(key, value)| (key, with_more(value))).collect();
            if is_record {
                fields.insert("of_a_later_version".into(), Value::Bool(true));
            }
            Value::Object(fields)
        }
        Value::Array(items) => Value::Array(items.into_iter().map(with_more).collect()),
        other => other,
    }
}

#[test]
fn a_hello_of_version_1_is_understood() {
    reads_all::<Hello>(include_str!("v1-hello.jsonl"));
}

#[test]
fn the_answer_to_a_hello_of_version_1_is_understood() {
    reads_all::<HelloAnswer>(include_str!("v1-hello-answer.jsonl"));
}

#[test]
fn what_agents_of_version_1_say_is_understood() {
    reads_all::<Frame<ToController>>(include_str!("v1-to-controller.jsonl"));
}

#[test]
fn what_agents_of_version_1_are_told_is_understood() {
    reads_all::<Frame<ToAgent>>(include_str!("v1-to-agent.jsonl"));
}
