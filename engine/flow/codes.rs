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

    PATH_CLASH = "path-clash", "Two flows listen at the same place";
    CLOSED_FLOW = "closed-flow", "A flow hands over to a flow that does not take messages from flows";
    UNFED_FLOW = "unfed-flow", "A flow waits for other flows and none hands anything to it";
    FLOW_CYCLE = "flow-cycle", "Flows hand over to each other in a circle";

    BAD_ADDRESS = "bad-address", "An address to listen at is not of the form host:port";
    BAD_TABLE = "bad-table", "A cross-reference table cannot be read";
    UNKNOWN_PROCESS = "unknown-process", "A flow names a process that the project does not have";
    UNKNOWN_TARGET_FIELD = "unknown-target-field", "A mapping sets a field that the schema of its target does not have";
    MISSING_TARGET_FIELD = "missing-target-field", "A mapping never sets a field that the schema of its target requires";
    WRONG_TARGET_VALUE = "wrong-target-value", "A mapping sets a field to something that the schema of its target never allows";
    CONTRACT_MISMATCH = "contract-mismatch", "A mapping is made for another schema than the one in force where it is used";
}
