//! Bounds and places of values, and that no bytes break the reader.

use proptest::prelude::*;

use super::*;

fn message(error: &ApiError) -> String {
    String::from_utf8(error.to_json()).unwrap()
}

#[test]
fn malformed_bodies_are_told_with_their_position() {
    for (bytes, words) in [
        (&b"{\"a\":\xff}"[..], "no UTF-8 from byte 5"),
        (b"{\"a\":1,}", "line 1 column 8"),
        (b"{\"a\":\n NaN}", "line 2"),
        (b"", "EOF"),
        (b"[1]", "a list, not an object"),
        (b"{} {}", "trailing"),
    ] {
        let error = body(bytes).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidJson);
        assert!(message(&error).contains(words), "{}", message(&error));
    }
    // Deep nesting needs no stack.
    assert!(body("[".repeat(1 << 20).as_bytes()).is_err());
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(1 << 20), "]".repeat(1 << 20));
    let object = body(deep.as_bytes()).unwrap();
    assert!(object.get("a").unwrap().tree(1 << 30).is_err());
}

#[test]
fn numbers_are_kept_to_their_range() {
    let object =
        body(br#"{"i":7.0,"big":9223372036854775808,"f":2.0000001,"x":1e999,"s":"7","n":null}"#).unwrap();
    assert_eq!(object.get("i").unwrap().integer(0..=10).unwrap(), 7);
    assert!(object.get("big").unwrap().integer(i64::MIN..=i64::MAX).is_err());
    assert!(object.get("f").unwrap().number(0.0..=2.0).is_err());
    assert!(object.get("f").unwrap().integer(0..=2).is_err());
    assert!(object.get("x").unwrap().number(0.0..=2.0).is_err());
    assert_eq!(object.get("s").unwrap().integer(0..=10).unwrap_err().code(), ErrorCode::InvalidType);
    assert!(object.get("n").is_none());
    assert_eq!(object.need("n").unwrap_err().param(), Some("n"));
}

#[test]
fn lists_and_objects_are_not_built_beyond_their_bound() {
    let long = format!(r#"{{"l":[{}1],"o":{{"k":1,"m":1}}}}"#, "1,".repeat(1 << 20));
    let object = body(long.as_bytes()).unwrap();
    assert_eq!(object.get("l").unwrap().list(4).unwrap_err().code(), ErrorCode::TooMany);
    assert_eq!(object.get("l").unwrap().ids(4).unwrap_err().code(), ErrorCode::TooMany);
    assert_eq!(object.get("o").unwrap().object(1).unwrap_err().code(), ErrorCode::TooMany);
    assert!(object.get("l").unwrap().tree(8 << 20).is_err());
    let twice = body(br#"{"a":1,"a":2}"#).unwrap_err();
    assert_eq!(twice.param(), Some("a"));
}

#[test]
fn places_are_written_as_clients_do() {
    let object = body(br#"{"messages":[{},{"content":[1]}]}"#).unwrap();
    let messages = object.get("messages").unwrap().list(9).unwrap();
    let second = messages.iter().nth(1).unwrap().object(9).unwrap();
    let content = second.get("content").unwrap().list(9).unwrap();
    let error = content.iter().next().unwrap().text().unwrap_err();
    assert_eq!(error.param(), Some("messages[1].content[0]"));
    assert!(error.message().contains("it is a number, but a string is needed"));
}

#[test]
fn a_mistyped_name_finds_its_neighbour() {
    let known = ["temperature", "top_p", "max_tokens", "n"];
    let near = |name| nearest(name, known.into_iter());
    assert_eq!(near("tempreature"), Some("temperature"));
    assert_eq!(near("max_token"), Some("max_tokens"));
    assert_eq!(near("topp"), Some("top_p"));
    assert_eq!(near("frobnicate"), None);
    let object = body(br#"{"tempreature":1}"#).unwrap();
    let error = object.only(&known).unwrap_err();
    assert!(error.message().contains("did you mean `temperature`?"), "{}", error.message());
    let huge = format!("{{\"{}\":1}}", "x".repeat(1 << 20));
    assert!(message(&body(huge.as_bytes()).unwrap().only(&known).unwrap_err()).len() < 2048);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes: Vec<u8>, text in "[{}\\[\\]\",:0-9a-z\\\\u]{0,60}") {
        for bytes in [&bytes[..], text.as_bytes()] {
            if let Ok(object) = body(bytes) {
                for (_, json) in object.iter() {
                    let _ = (json.text(), json.boolean(), json.integer(0..=9), json.number(0.0..=1.0), json.tree(1000));
                    let _ = (json.ids(3), json.list(3).map(|list| list.len()), json.object(3).map(drop));
                }
            }
        }
    }
}
