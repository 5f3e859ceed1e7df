//! The diagnostic codes of projects and flows, each with its meaning. The codes of YAML, shapes, expressions and parts stand with them.

use crate::diagnostic::Code;

macro_rules! codes {
    ($($constant:ident = $name:literal, $meaning:literal;)+) => {
        $(#[doc = $meaning] pub const $constant: Code = Code { name: $name, meaning: $meaning };)+
        /// All of them, for the reference.
        pub const ALL: &[Code] = &[$($constant),+];
    };
}

codes! {
    UNREADABLE = "unreadable", "A file or folder of the project cannot be read";
    NOT_UTF8 = "not-utf8", "A file is not UTF-8 text";
    FILE_TOO_LARGE = "file-too-large", "A file is larger than a file of its kind may be";
    TOO_MANY_FILES = "too-many-files", "The project has more files than a project may have";
    NO_FLOWS = "no-flows", "The folder holds no flow";
    IGNORED_FILE = "ignored-file", "A file looks like a part of the project and is not read, because of its name or folder";
    FILE_NAME = "file-name", "A file is named almost like what it declares, or like something else";

    MISSING_VARIABLE = "missing-variable", "An environment variable is not set and has no default";
    MISSING_SECRET_FILE = "missing-secret-file", "A file named by `${file:..}` cannot be read";
    BAD_SUBSTITUTION = "bad-substitution", "A `${..}` is not of a form that exists";
    LITERAL_SECRET = "literal-secret", "A secret stands in the file itself";

    BAD_NAME = "bad-name", "A name has characters that names must not have, or is too long";
    DUPLICATE_NAME = "duplicate-name", "Two flows, fragments, mappings or systems of a project have the same name";
    DUPLICATE_ID = "duplicate-id", "Two steps or sinks of a flow have the same id";
    UNKNOWN_KIND = "unknown-kind", "There is no source, step or sink of this kind";
    NOT_YET = "not-yet", "A word of the language that this version does not have yet";
    TWO_KINDS = "two-kinds", "An entry has two kinds; it can have only one";
    NO_KIND = "no-kind", "An entry does not say what it is";
    MEANINGLESS_KEY = "meaningless-key", "A key stands where it has no effect";
    MISPLACED_KEY = "misplaced-key", "A key stands beside the kind and belongs inside it, or the other way round";

    ONCE_WITHOUT_KEYS = "once-without-keys", "`once` or `order_by` names a key and the flow declares no keys";
    KEEP_TOO_SHORT = "keep-too-short", "`once.keep` is shorter than the flow's retries may take, or than senders repeat, so that a repeat could slip through";
    VERSION_MISSING = "version-missing", "`once` judges changes by version and does not say what the version is";
    ORDER_BROKEN = "order-broken", "A step of an ordered flow waits for other messages of the flow, which wait for it";
    OVERLAP_WITHOUT_ONCE = "overlap-without-once", "A source reads some things twice by design and the flow has no `once`";
    BAD_RETRY = "bad-retry", "The settings of a retry contradict each other";
    NOT_BOOLEAN = "not-boolean", "A condition can never be true or false";
    UNKNOWN_CLASS = "unknown-class", "`on_failure` names a failure class that does not exist";
    FAILURE_CYCLE = "failure-cycle", "Failures of a sink lead back to the sink";

    UNKNOWN_SINK = "unknown-sink", "`to` or `otherwise` names something that is no sink of the flow";
    UNUSED_SINK = "unused-sink", "Nothing leads to a sink";
    NO_ROUTES = "no-routes", "A flow has several sinks and no `routes`";
    ROUTE_ARM = "route-arm", "An arm of `routes` or `branch` lacks its condition or its targets, or has too much";
    OTHERWISE_NOT_LAST = "otherwise-not-last", "`otherwise` is not the last arm";
    UNREACHABLE_ROUTE = "unreachable-route", "An arm before takes every message, or the arm can never match";
    SAGA_STEP = "saga-step", "Something stands in a saga that ends or multiplies a message, and so would leave standing what was done";
    SAGA_WITHOUT_UNDO = "saga-without-undo", "A step of a saga acts on the outside before the pivot and nothing says how it is undone";
    UNGUARDED_EFFECT = "unguarded-effect", "A step acts on the outside and nothing lets the engine repeat it safely";

    UNKNOWN_FRAGMENT = "unknown-fragment", "`use` names a fragment that the project does not have";
    FRAGMENT_CYCLE = "fragment-cycle", "A fragment uses itself";
    UNKNOWN_PARAMETER = "unknown-parameter", "A parameter is given or used that the fragment does not declare";
    MISSING_PARAMETER = "missing-parameter", "A parameter without a default is not given";
    UNUSED_PARAMETER = "unused-parameter", "A fragment declares a parameter and does not use it";
    WRONG_PARAMETER = "wrong-parameter", "A parameter is given a value that does not fit its type";

    BAD_TEST = "bad-test", "A test cannot be what is meant: it expects nothing, or names something that does not take part in it";
    MISSING_FIXTURE = "missing-fixture", "A test names a file beside it that cannot be read";
    UNKNOWN_STEP = "unknown-step", "A test names a step or a sink that the flow does not have";
    BAD_MATCHER = "bad-matcher", "What stands in for a value in a test is no matcher, or cannot be read";

    PATH_CLASH = "path-clash", "Two flows listen at the same place";
    CLOSED_FLOW = "closed-flow", "A flow hands over to a flow that does not take messages from flows";
    UNFED_FLOW = "unfed-flow", "A flow waits for other flows and none hands anything to it";
    FLOW_CYCLE = "flow-cycle", "Flows hand over to each other in a circle";

    BAD_ADDRESS = "bad-address", "An address to listen at is not of the form host:port";
    OPEN_ADMIN = "open-admin", "The admin API would be reached by others without TLS, or shares the address of the webhooks";
    MISSING_CERTIFICATE = "missing-certificate", "A file of a server's certificate is not in the project: the engine would not start";
    BAD_TABLE = "bad-table", "A cross-reference table cannot be read";
    UNKNOWN_PROCESS = "unknown-process", "A flow names a process that the project does not have";
    UNKNOWN_TARGET_FIELD = "unknown-target-field", "A mapping sets a field that the schema of its target does not have";
    MISSING_TARGET_FIELD = "missing-target-field", "A mapping never sets a field that the schema of its target requires";
    WRONG_TARGET_VALUE = "wrong-target-value", "A mapping sets a field to something that the schema of its target never allows";
    UNKNOWN_SOURCE_FIELD = "unknown-source-field", "An expression reads a field that the schema in force there does not allow: it is always null";
    UNDECLARED_FIELD = "undeclared-field", "An expression reads a field that the schema in force there does not declare";
    WRONG_SHAPE = "wrong-shape", "A field is asked of a list, items of an object, or a list is needed where something else may come";
    NULL_FOR_REQUIRED = "null-for-required", "A value may be null or missing where the schema of the target requires it";
    TYPE_MISMATCH = "type-mismatch", "A value is, or may be, of another kind than the schema of the target allows";
    VALUE_MISMATCH = "value-mismatch", "A value may be one that the `enum` or `const` of the target does not allow";
    LENGTH_MISMATCH = "length-mismatch", "A text may be longer or shorter than the schema of the target allows";
    PATTERN_MISMATCH = "pattern-mismatch", "A text need not have the pattern or format that the schema of the target asks for";
    RANGE_MISMATCH = "range-mismatch", "A number may lie outside of what the schema of the target allows";
    FRACTION_FOR_INTEGER = "fraction-for-integer", "A number may have a fraction where the schema of the target asks for an integer";
    COUNT_MISMATCH = "count-mismatch", "A list may have fewer or more items than the schema of the target allows";
    EXTRA_FIELD = "extra-field", "An object is copied with a field that the schema of the target does not allow";
    UNCHECKED_VALUE = "unchecked-value", "The schema of the target limits a value and that of the source says nothing about it";
    NEVER_EQUAL = "never-equal", "Two values are compared that are never equal";
    NEVER_ORDERED = "never-ordered", "An ordering comparison has a side that is never a number, which gives null";
    ARGUMENT_TYPE = "argument-type", "A function gets, or may get, an argument that it does not take";
    NULL_ARGUMENT = "null-argument", "A function may get null for an argument that must not be null";
    NULL_CONDITION = "null-condition", "A condition may give null, which is neither true nor false";
    NULL_KEY = "null-key", "An expression that must give a text or a number may give null";
    KEY_TYPE = "key-type", "An expression that must give a text or a number gives something else";
    NEVER_PASSES = "never-passes", "A condition of a step is never true";
    BODY_MISMATCH = "body-mismatch", "A body is validated by, or handed to a flow that accepts, a schema that it may break";
    CONTRACT_MISMATCH = "contract-mismatch", "A mapping is made for another schema than the one in force where it is used";

    UNOWNED = "unowned", "A policy asks for owners, and nobody answers for a flow or a system";
    NO_CONTRACT = "no-contract", "A policy asks for contracts, and a flow takes any body from outside";
    DEPRECATED_USE = "deprecated-use", "A policy forbids what is deprecated, and something uses it";
    LITERAL_CREDENTIAL = "literal-credential", "A policy forbids credentials in files, and a text looks like one";
    UNUSED_EXCEPTION = "unused-exception", "A policy has an exception that excuses nothing";
    NOT_THE_AUTHORITY = "not-the-authority", "A flow sends on what belongs to another system than the one its messages come from";
    UNKNOWN_ENTITY = "unknown-entity", "`authority` names a schema, a field or a system that the project does not have";

    BREAKING_CHANGE = "breaking-change", "A schema was changed in place so that bodies which kept to it break it, or break its readers; told by `check --against`";
    UNCLEAR_CHANGE = "unclear-change", "A schema was changed in place, and whether bodies and readers still fit cannot be told; told by `check --against`";
    SCHEMA_GONE = "schema-gone", "A schema that flows took from outside or sent to systems is gone, and was not announced to be; told by `check --against`";
    FLOW_GONE = "flow-gone", "A flow that took messages from outside is gone, or listens elsewhere, and was not announced to; told by `check --against`";
}

/// Those that are found by types: an error of these carries a body that shows it.
pub const TYPED: &[Code] = &[
    UNKNOWN_SOURCE_FIELD,
    UNDECLARED_FIELD,
    WRONG_SHAPE,
    NULL_FOR_REQUIRED,
    TYPE_MISMATCH,
    VALUE_MISMATCH,
    LENGTH_MISMATCH,
    PATTERN_MISMATCH,
    RANGE_MISMATCH,
    FRACTION_FOR_INTEGER,
    COUNT_MISMATCH,
    EXTRA_FIELD,
    UNCHECKED_VALUE,
    NEVER_EQUAL,
    NEVER_ORDERED,
    ARGUMENT_TYPE,
    NULL_ARGUMENT,
    NULL_CONDITION,
    NULL_KEY,
    KEY_TYPE,
    NEVER_PASSES,
    BODY_MISMATCH,
];
