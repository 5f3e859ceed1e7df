//! What formats promise.

use super::*;

fn format(yaml: &str) -> Format {
    let file = crate::diagnostic::File::new("f.yaml", yaml);
    let mut findings = crate::diagnostic::Findings::new();
    let node = crate::yaml::parse(&file, &mut findings).unwrap();
    let schema = schemars::schema_for!(FormatConfig);
    crate::yaml::shape::check(schema.as_value(), &node, &file, &mut findings);
    assert!(findings.is_empty(), "{yaml}: {findings:?}");
    let config: FormatConfig = serde_json::from_value(node.to_json()).unwrap();
    config.ready().unwrap()
}

/// Reads a file in pieces of some size. Documents are given as JSON, what is broken as `! failure`.
fn read_in(format: &Format, schema: Option<&Value>, bytes: &[u8], piece: usize) -> Vec<String> {
    let mut decoder = format.decoder(schema, Position::default());
    let mut out = Vec::new();
    let mut drain = |decoder: &mut Decoder| {
        while let Some(next) = decoder.next_document() {
            out.push(match next {
                Ok(document) => {
                    document.body.document().unwrap();
                    format!("{:?}", document.body)
                }
                Err(broken) => format!("! {}", broken.failure),
            });
        }
    };
    for piece in bytes.chunks(piece.max(1)) {
        decoder.feed(piece);
        drain(&mut decoder);
    }
    decoder.finish();
    drain(&mut decoder);
    out
}

/// Reads a file whole and byte by byte, and after a restart behind each document; expects the same.
fn check(yaml: &str, bytes: impl AsRef<[u8]>, expect: &[&str]) {
    check_typed(yaml, None, bytes.as_ref(), expect);
}

fn check_typed(yaml: &str, schema: Option<&Value>, bytes: &[u8], expect: &[&str]) {
    let format = format(yaml);
    for piece in [bytes.len(), 1, 2, 7] {
        assert_eq!(
            read_in(&format, schema, bytes, piece),
            expect,
            "{yaml} in pieces of {piece}"
        );
    }
    if !format.is_by_line() {
        return;
    }
    let mut position = Position::default();
    let mut out = Vec::new();
    loop {
        let told = serde_json::to_string(&position).unwrap();
        let mut decoder = format.decoder(schema, serde_json::from_str(&told).unwrap());
        decoder.feed(&bytes[usize::try_from(position.offset).unwrap()..]);
        decoder.finish();
        let Some(next) = decoder.next_document() else {
            break;
        };
        match next {
            Ok(document) => out.push(format!("{:?}", document.body)),
            Err(broken) => {
                out.push(format!("! {}", broken.failure));
                if broken.fatal {
                    break;
                }
            }
        }
        position = decoder.position();
    }
    assert_eq!(out, expect, "{yaml} with restarts");
}

#[test]
fn csv_rows_become_objects() {
    check(
        "csv",
        "a,b\n1,x\n2,\"y, \"\"z\"\"\"\n",
        &[r#"{"a":"1","b":"x"}"#, r#"{"a":"2","b":"y, \"z\""}"#],
    );
    check(
        "csv",
        "a,b\r\n1,\"x\r\ny\"\r\n\r\n2,\r\n",
        &[r#"{"a":"1","b":"x\r\ny"}"#, r#"{"a":"2"}"#],
    );
    check(
        "csv",
        "a,b\r1,x\r2,y",
        &[r#"{"a":"1","b":"x"}"#, r#"{"a":"2","b":"y"}"#],
    );
    check("csv", "\u{feff}a;b\n", &[]);
    check("csv", "\u{feff}ä,b\nö,\"\"\n", &[r#"{"ä":"ö"}"#]);
    check(
        "csv: { delimiter: ';', empty: null, trim: true, comment: '#' }"
            .replace("empty: null", "empty: 'null'")
            .as_str(),
        "#x\na;b\n 1 ;\n#2;\n",
        &[r#"{"a":"1","b":null}"#],
    );
    check(
        "csv: { delimiter: tab, header: false, columns: [x, y], empty: text, quote: '' }",
        "\"1\t\n",
        &[r#"{"x":"\"1","y":""}"#],
    );
    check("csv: { columns: [x] }", "a\n1\n", &[r#"{"x":"1"}"#]);
    check(
        "csv: { quote: \"'\" }",
        "a,b\n'1,2',\"3\n",
        &[r#"{"a":"1,2","b":"\"3"}"#],
    );
}

#[test]
fn csv_is_read_in_its_encoding() {
    check(
        "csv: { encoding: windows-1252 }",
        b"n,p\nM\xFCller,\x80 5\n",
        &[r#"{"n":"Müller","p":"€ 5"}"#],
    );
    for big in [false, true] {
        let wide: Vec<u8> = "\u{feff}a,b\r\n1,\"ü\n😀\"\r\n2,y"
            .encode_utf16()
            .flat_map(|unit| {
                if big {
                    unit.to_be_bytes()
                } else {
                    unit.to_le_bytes()
                }
            })
            .collect();
        check(
            "csv",
            wide,
            &[r#"{"a":"1","b":"ü\n😀"}"#, r#"{"a":"2","b":"y"}"#],
        );
    }
    check(
        "csv",
        b"a,b\n1,\xFF\n2,x\n",
        &[
            "! parse: line 2 is not text in UTF-8",
            r#"{"a":"2","b":"x"}"#,
        ],
    );
}

#[test]
fn csv_cells_are_typed_by_a_schema_and_keep_their_digits() {
    let schema = serde_json::json!({ "properties": {
        "n": { "type": "number" }, "i": { "type": ["integer", "null"] }, "b": { "type": "boolean" }, "s": { "type": "string" },
        "r": { "$ref": "#/$defs/r" } }, "$defs": { "r": { "type": "number" } } });
    check_typed("csv", Some(&schema), b"n,i,b,s,r,u\n19.90,007,TRUE,007,9007199254740993,1\n+.5,-00,0,,1e5,\nabc,5,maybe,x,1.,y\n", &[
        r#"{"n":19.90,"i":7,"b":true,"s":"007","r":9007199254740993,"u":"1"}"#,
        r#"{"n":0.5,"i":-0,"b":false,"r":1e5}"#,
        r#"{"n":"abc","i":5,"b":"maybe","s":"x","r":"1.","u":"y"}"#,
    ]);
    check_typed(
        "csv: { decimal_comma: true, delimiter: ';' }",
        Some(&schema),
        b"n;i\n19,90;1.5,0\n",
        &[r#"{"n":19.90,"i":"1.5,0"}"#],
    );
}

#[test]
fn broken_csv_is_told_with_its_line() {
    check(
        "csv",
        "a,b\n1\n2,x\n3,y,z\n",
        &[
            "! parse: line 2 has 1 cells, expected 2",
            r#"{"a":"2","b":"x"}"#,
            "! parse: line 4 has 3 cells, expected 2",
        ],
    );
    check(
        "csv",
        "a,a\n1,2\n",
        &["! parse: line 1: the header names `a` twice, again in column 2"],
    );
    check(
        "csv",
        "a,\n1,2\n",
        &["! parse: line 1: column 2 of the header has no name"],
    );
    check(
        "csv",
        "a,b\n1,\"x\n2,y\n",
        &["! parse: line 2: a quote is not closed before the end of the file"],
    );
    check(
        "csv",
        "a,b\n\"1\"2,x\n2,y\n",
        &[
            "! parse: line 2: text follows behind the closing quote of cell 1",
            r#"{"a":"2","b":"y"}"#,
        ],
    );
    check(
        "csv",
        "a,b\n1,x\0\n2,y\n",
        &[
            "! parse: line 2 has a NUL character; the encoding may be another one than UTF-8",
            r#"{"a":"2","b":"y"}"#,
        ],
    );
}

#[test]
fn settings_of_csv_that_cannot_be_are_faults() {
    for (csv, field) in [
        (
            csv::Csv {
                delimiter: "ab".into(),
                ..Default::default()
            },
            "delimiter",
        ),
        (
            csv::Csv {
                quote: ",".into(),
                ..Default::default()
            },
            "quote",
        ),
        (
            csv::Csv {
                encoding: "klingon".into(),
                ..Default::default()
            },
            "encoding",
        ),
        (
            csv::Csv {
                encoding: "iso-2022-jp".into(),
                ..Default::default()
            },
            "encoding",
        ),
        (
            csv::Csv {
                header: false,
                ..Default::default()
            },
            "header",
        ),
        (
            csv::Csv {
                columns: vec!["a".into(), "a".into()],
                ..Default::default()
            },
            "columns",
        ),
    ] {
        let fault = FormatConfig::Settings(FormatSettings::Csv(csv))
            .ready()
            .unwrap_err();
        assert_eq!(fault.field, field);
    }
}

#[test]
fn json_lines_are_read_one_by_one() {
    check(
        "jsonl",
        "\u{feff}{\"a\":1}\r\n\n [2] \nnull",
        &[r#"{"a":1}"#, " [2] ", "null"],
    );
    check(
        "jsonl",
        "{\"a\":1}\n{\"a\":\n3\n",
        &[
            r#"{"a":1}"#,
            "! parse: not JSON at line 2, column 6: the body ends where a value was expected",
            "3",
        ],
    );
    check(
        "jsonl",
        b"1\n\"\xFF\"\n2",
        &[
            "1",
            "! parse: line 2: the body is not UTF-8: byte 1 is 0xff; send UTF-8",
            "2",
        ],
    );
}

#[test]
fn json_is_one_document_or_the_items_of_a_list() {
    check("json", " {\"a\": [1]} ", &[r#" {"a": [1]} "#]);
    check(
        "json: { each: true }",
        "\u{feff}[1, {\"a\": 19.90}]",
        &["1", r#"{"a": 19.90}"#],
    );
    check("json: { each: true }", "{}", &["{}"]);
    check(
        "json",
        "{",
        &["! parse: not JSON at line 1, column 2: the body ends inside an object"],
    );
    check(
        "json: { bytes_max: 5 }",
        "[1, 2, 3]",
        &["! too_large: the file has more than 5 bytes"],
    );
}

#[test]
fn xml_becomes_objects_by_one_convention() {
    check(
        "xml",
        "<?xml version='1.0'?>\n<!-- c --><o id=\"1\" n='a&amp;b'><l>x</l><l q='2'>y</l><e/><t> a &lt;<![CDATA[<b>]]>&#65; </t>  <m>u<i>v</i>w</m></o>\n",
        &[
            r##"{"o":{"@id":"1","@n":"a&b","l":["x",{"@q":"2","#text":"y"}],"e":null,"t":" a <<b>A ","m":{"i":"v","#text":"uw"}}}"##,
        ],
    );
    check(
        "xml: { lists: [o.l, o.l.m], drop_prefixes: true }",
        "<x:o xmlns:x='u'><x:l><x:m/></x:l></x:o>",
        &[r#"{"o":{"l":[{"m":[null]}]}}"#],
    );
    check(
        "xml",
        b"<?xml version=\"1.0\" encoding=\"windows-1252\"?><a>\xFC</a>",
        &[r#"{"a":"ü"}"#],
    );
    let wide: Vec<u8> = "\u{feff}<a>ü</a>"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    check("xml", wide, &[r#"{"a":"ü"}"#]);
}

#[test]
fn xml_that_is_none_or_hostile_is_refused() {
    for (text, part) in [
        ("<a>\n<b></a>", "line 2"),
        ("<a>", "not closed"),
        ("", "no element"),
        ("<a/><b/>", "more than one root"),
        ("x<a/>", "outside"),
        ("<!DOCTYPE a [<!ENTITY x \"y\">]><a>&x;</a>", "DOCTYPE"),
        ("<a>&x;</a>", "&x; is not known"),
        ("<a b='1' b='2'/>", "line 1"),
        ("<a>&#0;</a>", "line 1"),
        ("<a>\u{1}</a>", "U+0001"),
        ("<a b='&y;'/>", "line 1"),
    ] {
        let found = read_in(&format("xml"), None, text.as_bytes(), 100);
        assert!(
            found.len() == 1 && found[0].starts_with("! parse") && found[0].contains(part),
            "{text}: {found:?}"
        );
    }
    let deep = read_in(&format("xml"), None, "<a>".repeat(100_000).as_bytes(), 4096);
    assert!(deep[0].contains("deeper than 100"), "{deep:?}");
    let many = format!("<a>{}</a>", "<b/>".repeat(600_000));
    assert!(read_in(&format("xml"), None, many.as_bytes(), 1 << 20)[0].contains("500000"));
}

#[test]
fn documents_are_written() {
    let write = |yaml: &str, json: &str| {
        let body = Body::new(json.to_owned());
        format(yaml)
            .encode(body.document().unwrap())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    };
    assert_eq!(write("json", r#"{"a": 19.90}"#).unwrap(), r#"{"a": 19.90}"#);
    assert_eq!(
        write("jsonl", "[1, {\"a\":\n 2}]").unwrap(),
        "1\n{\"a\": 2}\n"
    );
    let rows = r#"[{"a": 19.90, "b": "x,\"y\"", "c": true}, {"a": null, "b": " z", "c": [1]}, {}]"#;
    assert_eq!(
        write("csv", rows).unwrap(),
        "a,b,c\n19.90,\"x,\"\"y\"\"\",true\n,\" z\",[1]\n,,\n"
    );
    assert_eq!(
        write("csv: { columns: [b], line_end: crlf, header: false }", rows).unwrap(),
        "\"x,\"\"y\"\"\"\r\n\" z\"\r\n\"\"\r\n"
    );
    assert_eq!(
        write(
            "csv: { disarm_formulas: true }",
            r#"{"a": "=1+1", "b": -5}"#
        )
        .unwrap(),
        "a,b\n'=1+1,-5\n"
    );
    assert_eq!(
        write(
            "csv: { decimal_comma: true, delimiter: ';' }",
            r#"{"a": 1.5}"#
        )
        .unwrap(),
        "a\n1,5\n"
    );
    assert!(
        write("csv", r#"[{"a": 1}, {"b": 1}]"#)
            .unwrap_err()
            .message
            .contains("`b`")
    );
    assert!(
        write("csv: { encoding: windows-1252 }", r#"{"a": "😀"}"#)
            .unwrap_err()
            .message
            .contains("😀")
    );
    assert!(write("csv", "[1]").is_err());
    let xml = r##"{"o": {"@id": 1, "l": ["a<b", {"@q": "\"", "#text": 2}], "e": null, "n": {"x": true}}}"##;
    assert_eq!(
        write("xml", xml).unwrap(),
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<o id=\"1\"><l>a&lt;b</l><l q=\"&quot;\">2</l><e/><n><x>true</x></n></o>"
    );
    assert_eq!(
        write("xml: { root: r }", "[1]").unwrap().lines().nth(1),
        Some("<r>1</r>")
    );
    for bad in [
        "[1]",
        r#"{"a": 1, "b": 2}"#,
        r#"{"a b": 1}"#,
        r#"{"a": {"@x": [1]}}"#,
        r#"{"a": "\u0001"}"#,
    ] {
        assert_eq!(
            write("xml", bad).unwrap_err().class,
            Class::Mapping,
            "{bad}"
        );
    }
}

#[test]
fn what_is_written_is_read_again() {
    let json = r#"[{"a":"x","b":"1,\"2\"\n3"},{"a":" y ","b":"ü"}]"#;
    let body = Body::new(json);
    for yaml in [
        "csv",
        "csv: { encoding: windows-1252, line_end: crlf, delimiter: ';' }",
        "jsonl",
    ] {
        let format = format(yaml);
        let bytes = format.encode(body.document().unwrap()).unwrap();
        let read = format.decode(&bytes, None).unwrap();
        assert_eq!(
            String::from_utf8_lossy(&read).replace('\n', ""),
            json,
            "{yaml}"
        );
    }
    let json = r##"{"o":{"@id":"1\t2","l":["a<b",{"@q":"\"","#text":" 2 "}],"e":null}}"##;
    let body = Body::new(json);
    let bytes = format("xml").encode(body.document().unwrap()).unwrap();
    assert_eq!(
        &format("xml").decode(&bytes, None).unwrap()[..],
        json.as_bytes()
    );
    assert_eq!(
        format("csv: { columns: [a, b] }").header().unwrap(),
        "a,b\n"
    );
    let row = Body::new(r#"{"b": 1, "c": 2}"#);
    assert_eq!(
        format("csv: { columns: [a, b] }")
            .line(row.document().unwrap())
            .unwrap(),
        ",1\n"
    );
    assert!(format("csv").line(row.document().unwrap()).is_err());
    assert!(
        format("csv")
            .decode(b"a,b\n1\n", None)
            .unwrap_err()
            .message
            .contains("line 2")
    );
    assert_eq!(&format("csv").decode(b"a\n", None).unwrap()[..], b"[]");
}

#[test]
fn hostile_files_fail_at_once_and_within_bounds() {
    let started = std::time::Instant::now();
    for (yaml, head, piece) in [
        ("csv", "a,b\n", "x".repeat(64 << 10)),
        ("csv", "a,b\n1,\"", "x\n".repeat(32 << 10)),
        ("csv", "", "a,".repeat(32 << 10)),
        ("jsonl", "", "[".repeat(64 << 10)),
        ("json", "", "[".repeat(64 << 10)),
        ("xml", "<a>", "<a>".repeat(20 << 10)),
    ] {
        let format = format(yaml);
        let mut decoder = format.decoder(None, Position::default());
        decoder.feed(head.as_bytes());
        let mut failures = Vec::new();
        // 50 MB in one line.
        for _ in 0..800 {
            decoder.feed(piece.as_bytes());
            while let Some(next) = decoder.next_document() {
                failures.push(next.unwrap_err().failure);
            }
        }
        decoder.finish();
        while let Some(next) = decoder.next_document() {
            failures.push(next.unwrap_err().failure);
        }
        assert_eq!(failures.len(), 1, "{yaml} {head}: {failures:?}");
        assert!(failures[0].message.len() < 200, "{failures:?}");
    }
    assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
}
