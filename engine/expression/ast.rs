//! The tree of a compiled expression. Every node knows its bytes in the text; paths and chains are kept flat.

use std::sync::OnceLock;

use regex::Regex;

use super::functions::Function;
use crate::body::{Tape, write_string};

/// A node: what it is, and where it stands in the expression's text.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) tree: Tree,
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// How many nodes lie on the longest way down, this one included.
    pub(crate) height: usize,
}

#[derive(Debug)]
pub(crate) enum Tree {
    /// `@`, and what an omitted left side means.
    Current,
    /// `a.b[0].c`, from the current value or from another node's.
    Path {
        of: Option<Box<Node>>,
        steps: Vec<Step>,
    },
    /// `[*]`, `*`, `[]`, `[a:b:c]`, `[?x]`, and what is applied to each element.
    Project {
        of: Option<Box<Node>>,
        over: Over,
        each: Option<Box<Node>>,
    },
    /// `left | right`; also `left.[..]`, `left.{..}` and `left.f()`, which mean the same.
    Pipe(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    And(Box<Node>, Box<Node>),
    Not(Box<Node>),
    Compare(Comparison, Box<Node>, Box<Node>),
    /// `[a, b]`
    List(Vec<Node>),
    /// `{a: b}`
    Object(Vec<(Key, Node)>),
    Call(Box<Call>),
    /// `&x`, only as an argument.
    Reference(Box<Node>),
    /// A JSON literal, parsed once.
    Literal(Tape),
    /// A raw string.
    Text(String),
    /// A variable bound by `let`: its place among the bindings in force.
    Local(usize),
    /// A variable from outside: `$name`.
    Free(String),
    /// `let $a = x, $b = y in z`
    Let(Vec<Node>, Box<Node>),
}

/// A key that an expression writes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) name: String,
    /// The name as JSON, with its colon.
    pub(crate) prefix: Vec<u8>,
}

impl Key {
    pub(crate) fn new(name: String) -> Key {
        let mut prefix = Vec::with_capacity(name.len() + 3);
        write_string(&mut prefix, &name);
        prefix.push(b':');
        Key { name, prefix }
    }
}

#[derive(Debug)]
pub(crate) enum Step {
    Field(String),
    Index(i64),
}

#[derive(Debug)]
pub(crate) enum Over {
    List,
    Values,
    Flatten,
    Slice(Slice),
    Filter(Box<Node>),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Slice {
    pub(crate) start: Option<i64>,
    pub(crate) stop: Option<i64>,
    pub(crate) step: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Comparison {
    pub(crate) fn orders(self) -> bool {
        !matches!(self, Comparison::Equal | Comparison::NotEqual)
    }
}

/// A call. The function is missing only until the check has reported the unknown name.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) name: String,
    /// Where the name ends.
    pub(crate) name_end: usize,
    pub(crate) function: Option<&'static Function>,
    pub(crate) arguments: Vec<Node>,
    /// The compiled pattern of `matches`, where the pattern is a literal.
    pub(crate) pattern: OnceLock<Regex>,
}

impl Node {
    pub(crate) fn new(tree: Tree, start: usize, end: usize) -> Node {
        let mut node = Node {
            tree,
            start,
            end,
            height: 0,
        };
        let mut below = 0;
        node.children(&mut |child| below = below.max(child.height));
        node.height = below + 1;
        node
    }

    /// Visits the nodes directly below.
    pub(crate) fn children<'a>(&'a self, visit: &mut dyn FnMut(&'a Node)) {
        match &self.tree {
            Tree::Current | Tree::Literal(_) | Tree::Text(_) | Tree::Local(_) | Tree::Free(_) => {}
            Tree::Path { of, .. } => {
                if let Some(of) = of {
                    visit(of);
                }
            }
            Tree::Project { of, over, each } => {
                if let Some(of) = of {
                    visit(of);
                }
                if let Over::Filter(condition) = over {
                    visit(condition);
                }
                if let Some(each) = each {
                    visit(each);
                }
            }
            Tree::Pipe(left, right)
            | Tree::Or(left, right)
            | Tree::And(left, right)
            | Tree::Compare(_, left, right) => {
                visit(left);
                visit(right);
            }
            Tree::Not(inner) | Tree::Reference(inner) => visit(inner),
            Tree::List(items) => items.iter().for_each(visit),
            Tree::Object(entries) => entries.iter().for_each(|(_, node)| visit(node)),
            Tree::Call(call) => call.arguments.iter().for_each(visit),
            Tree::Let(values, body) => {
                values.iter().for_each(&mut *visit);
                visit(body);
            }
        }
    }

    /// Visits this node and all below it, in the order of the text.
    pub(crate) fn walk<'a>(&'a self, visit: &mut dyn FnMut(&'a Node)) {
        visit(self);
        self.children(&mut |child| child.walk(visit));
    }

    /// The text, of a raw string or of a JSON literal that is a string.
    pub(crate) fn literal_text(&self) -> Option<String> {
        match &self.tree {
            Tree::Text(text) => Some(text.clone()),
            Tree::Literal(tape) => tape.root().as_str().map(|text| text.into_owned()),
            _ => None,
        }
    }
}
