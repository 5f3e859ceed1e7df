//! Tokens -> tree, by operator precedence. Depth and height are capped before recursion; names of functions are checked elsewhere.

use std::sync::OnceLock;

use super::ast::{Call, Comparison, Key, Node, Over, Slice, Step, Tree};
use super::lexer::{Lexeme, Token, tokens};
use super::{DEPTH_MAX, Fault, FaultKind, HEIGHT_MAX, LENGTH_MAX, functions};

/// The tree of an expression, or the first thing that does not fit the grammar.
pub(crate) fn parse(text: &str) -> Result<Node, Fault> {
    if text.len() > LENGTH_MAX {
        let message = format!(
            "the expression has {} bytes, the limit is {LENGTH_MAX}",
            text.len()
        );
        return Err(Fault::new(FaultKind::Syntax, message).at(0, text.len()));
    }
    let mut parser = Parser {
        tokens: tokens(text)?,
        at: 0,
        depth: 0,
        bound: Vec::new(),
    };
    if matches!(parser.peek(), Token::End) {
        return Err(Fault::new(FaultKind::Syntax, "the expression is empty")
            .at(0, text.len())
            .with_help("write @ for the whole value"));
    }
    let node = parser.expression(0)?;
    match parser.peek() {
        Token::End => Ok(node),
        _ => Err(parser.unexpected("the end of the expression or an operator")),
    }
}

const PIPE: u8 = 1;
const OR: u8 = 2;
const AND: u8 = 3;
const COMPARE: u8 = 5;
/// Above comparisons, below paths: `!a.b` is `!(a.b)`, `!a == b` is `(!a) == b`.
const NOT: u8 = 8;
const FLATTEN: u8 = 9;
/// What binds weaker ends a projection.
const PROJECTION_STOP: u8 = 10;
const STAR: u8 = 20;
const FILTER: u8 = 21;
const DOT: u8 = 40;
const BRACKET: u8 = 55;
const PARENTHESIS: u8 = 60;

struct Parser {
    tokens: Vec<Lexeme>,
    at: usize,
    depth: usize,
    /// The names that `let` has bound around here, innermost last.
    bound: Vec<String>,
}

impl Parser {
    fn expression(&mut self, power: u8) -> Result<Node, Fault> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            let message = format!("the expression nests deeper than {DEPTH_MAX} levels");
            let here = &self.tokens[self.at];
            return Err(Fault::new(FaultKind::Syntax, message)
                .at(here.start, here.end)
                .with_help("split it with let, or into several fields"));
        }
        let mut left = self.first()?;
        while power < self.power() {
            left = self.following(left)?;
            if left.height > HEIGHT_MAX {
                let message = format!("the expression has chains of more than {HEIGHT_MAX} parts");
                return Err(Fault::new(FaultKind::Syntax, message)
                    .at(left.start, left.end)
                    .with_help("split it with let, or into several fields"));
            }
        }
        self.depth -= 1;
        Ok(left)
    }

    /// How strongly the next token binds to what stands left of it.
    fn power(&self) -> u8 {
        match self.peek() {
            Token::Pipe => PIPE,
            Token::Or => OR,
            Token::And => AND,
            Token::Equal
            | Token::NotEqual
            | Token::Less
            | Token::LessOrEqual
            | Token::Greater
            | Token::GreaterOrEqual => COMPARE,
            Token::Flatten => FLATTEN,
            Token::Star => STAR,
            Token::Filter => FILTER,
            Token::Dot => DOT,
            Token::OpenBracket => BRACKET,
            Token::OpenParenthesis => PARENTHESIS,
            _ => 0,
        }
    }

    /// What can begin an expression.
    fn first(&mut self) -> Result<Node, Fault> {
        let start = self.start();
        match self.peek() {
            Token::Name(name) if name == "let" && self.let_follows() => self.let_in(start),
            Token::Name(_) => Ok(self.name(start)),
            Token::Quoted(_) => self.quoted(start),
            Token::Variable(_) => Ok(self.variable(start)),
            Token::Literal(_) | Token::Text(_) => Ok(self.literal(start)),
            Token::At => {
                self.at += 1;
                Ok(self.node(Tree::Current, start))
            }
            Token::Star => {
                self.at += 1;
                self.project(None, Over::Values, STAR, start)
            }
            Token::Flatten => {
                self.at += 1;
                self.project(None, Over::Flatten, FLATTEN, start)
            }
            Token::Filter => self.filter(None, start),
            Token::OpenBrace => self.object(start),
            Token::OpenBracket => self.bracket_first(start),
            Token::OpenParenthesis => {
                self.at += 1;
                let inner = self.expression(0)?;
                self.expect(&Token::CloseParenthesis, "`)`")?;
                Ok(inner)
            }
            Token::Not => {
                self.at += 1;
                let inner = self.expression(NOT)?;
                Ok(self.node(Tree::Not(Box::new(inner)), start))
            }
            Token::Reference => Err(self
                .fault("`&` stands only before an argument of a function")
                .with_help("as in sort_by(lines, &sku)")),
            Token::Assign => Err(self
                .fault("a single `=` is not an operator here")
                .with_help("compare with ==")),
            _ => Err(self.unexpected("an expression")),
        }
    }

    /// What can follow an expression.
    fn following(&mut self, left: Node) -> Result<Node, Fault> {
        let start = left.start;
        match self.peek() {
            Token::Dot => {
                self.at += 1;
                if matches!(self.peek(), Token::Star) {
                    self.at += 1;
                    return self.project(Some(left), Over::Values, STAR, start);
                }
                let right = self.dot_right(DOT)?;
                Ok(join(left, right))
            }
            Token::Pipe => self.binary(left, PIPE, Tree::Pipe),
            Token::Or => self.binary(left, OR, Tree::Or),
            Token::And => self.binary(left, AND, Tree::And),
            Token::Flatten => {
                self.at += 1;
                self.project(Some(left), Over::Flatten, FLATTEN, start)
            }
            Token::Filter => self.filter(Some(left), start),
            Token::OpenBracket => self.bracket_following(left),
            Token::OpenParenthesis => self.call(left),
            Token::Equal => self.compare(left, Comparison::Equal),
            Token::NotEqual => self.compare(left, Comparison::NotEqual),
            Token::Less => self.compare(left, Comparison::Less),
            Token::LessOrEqual => self.compare(left, Comparison::LessOrEqual),
            Token::Greater => self.compare(left, Comparison::Greater),
            Token::GreaterOrEqual => self.compare(left, Comparison::GreaterOrEqual),
            _ => Err(self
                .unexpected("an operator")
                .with_help("multiply with multiply(a, b); the values of an object are a.*")),
        }
    }

    fn name(&mut self, start: usize) -> Node {
        let Token::Name(name) = self.take() else {
            return self.node(Tree::Current, start);
        };
        if matches!(self.peek(), Token::OpenParenthesis) {
            let call = Call {
                name_end: self.end(),
                function: functions::find(&name),
                name,
                arguments: Vec::new(),
                pattern: OnceLock::new(),
            };
            return self.node(Tree::Call(Box::new(call)), start);
        }
        self.field(name, start)
    }

    fn quoted(&mut self, start: usize) -> Result<Node, Fault> {
        let Token::Quoted(name) = self.take() else {
            return Err(self.unexpected("a quoted name"));
        };
        if matches!(self.peek(), Token::OpenParenthesis) {
            let message = "the name of a function cannot stand in quotes";
            return Err(Fault::new(FaultKind::Syntax, message)
                .at(start, self.end())
                .with_help(format!("write {name}(..)")));
        }
        Ok(self.field(name, start))
    }

    fn field(&self, name: String, start: usize) -> Node {
        let steps = vec![Step::Field(name)];
        self.node(Tree::Path { of: None, steps }, start)
    }

    fn variable(&mut self, start: usize) -> Node {
        let Token::Variable(name) = self.take() else {
            return self.node(Tree::Current, start);
        };
        let tree = match self.bound.iter().rposition(|bound| *bound == name) {
            Some(place) => Tree::Local(place),
            None => Tree::Free(name),
        };
        self.node(tree, start)
    }

    fn literal(&mut self, start: usize) -> Node {
        let tree = match self.take() {
            Token::Literal(tape) => Tree::Literal(tape),
            Token::Text(text) => Tree::Text(text),
            _ => Tree::Current,
        };
        self.node(tree, start)
    }

    fn let_follows(&self) -> bool {
        matches!(
            self.tokens.get(self.at + 1).map(|next| &next.token),
            Some(Token::Variable(_))
        )
    }

    fn let_in(&mut self, start: usize) -> Result<Node, Fault> {
        self.at += 1;
        let mut names = Vec::new();
        let mut values = Vec::new();
        loop {
            let Token::Variable(_) = self.peek() else {
                return Err(self
                    .unexpected("a variable")
                    .with_help("as in let $total = total in $total"));
            };
            let Token::Variable(name) = self.take() else {
                continue;
            };
            self.expect(&Token::Assign, "`=`")?;
            values.push(self.expression(0)?);
            names.push(name);
            if !matches!(self.peek(), Token::Comma) {
                break;
            }
            self.at += 1;
        }
        match self.peek() {
            Token::Name(word) if word == "in" => self.at += 1,
            _ => return Err(self.unexpected("`in`")),
        }
        let outer = self.bound.len();
        self.bound.extend(names);
        let body = self.expression(0)?;
        self.bound.truncate(outer);
        Ok(self.node(Tree::Let(values, Box::new(body)), start))
    }

    /// `[*]`, `[0]`, `[1:2]` or `[a, b]` at the beginning of an expression.
    fn bracket_first(&mut self, start: usize) -> Result<Node, Fault> {
        match (self.token(1), self.token(2)) {
            (Token::Number(_) | Token::Colon, _) => self.index(None, start),
            (Token::Star, Token::CloseBracket) => {
                self.at += 3;
                self.project(None, Over::List, STAR, start)
            }
            _ => self.list(start),
        }
    }

    /// `[*]`, `[0]` or `[1:2]` after an expression.
    fn bracket_following(&mut self, left: Node) -> Result<Node, Fault> {
        let start = left.start;
        match (self.token(1), self.token(2)) {
            (Token::Number(_) | Token::Colon, _) => self.index(Some(left), start),
            (Token::Star, Token::CloseBracket) => {
                self.at += 3;
                self.project(Some(left), Over::List, STAR, start)
            }
            _ => {
                self.at += 1;
                Err(self
                    .unexpected("a number, `:` or `*]`")
                    .with_help("a filter is a[?b]; several values are a.[b, c]"))
            }
        }
    }

    fn index(&mut self, left: Option<Node>, start: usize) -> Result<Node, Fault> {
        self.at += 1;
        if let (Token::Number(index), Token::CloseBracket) = (self.peek(), self.token(1)) {
            let steps = vec![Step::Index(*index)];
            self.at += 2;
            let step = self.node(Tree::Path { of: None, steps }, start);
            return Ok(match left {
                Some(left) => join(left, step),
                None => step,
            });
        }
        let slice = self.slice()?;
        self.project(left, Over::Slice(slice), STAR, start)
    }

    fn slice(&mut self) -> Result<Slice, Fault> {
        let mut parts = [None; 3];
        let mut part = 0;
        let start = self.start();
        loop {
            match self.peek() {
                Token::CloseBracket => break,
                Token::Colon => {
                    part += 1;
                    if part > 2 {
                        return Err(self.fault("a slice has at most two colons"));
                    }
                    self.at += 1;
                }
                Token::Number(number) if parts[part].is_none() => {
                    parts[part] = Some(*number);
                    self.at += 1;
                    if !matches!(self.peek(), Token::Colon | Token::CloseBracket) {
                        return Err(self.unexpected("`:` or `]`"));
                    }
                }
                _ => return Err(self.unexpected("a number, `:` or `]`")),
            }
        }
        self.at += 1;
        let step = parts[2].unwrap_or(1);
        if step == 0 {
            let message = "the step of a slice cannot be 0";
            return Err(Fault::new(FaultKind::InvalidValue, message)
                .at(start, self.end())
                .with_help("use 1 for every element, -1 for the reverse order"));
        }
        Ok(Slice {
            start: parts[0],
            stop: parts[1],
            step,
        })
    }

    fn filter(&mut self, left: Option<Node>, start: usize) -> Result<Node, Fault> {
        self.at += 1;
        let condition = self.expression(0)?;
        self.expect(&Token::CloseBracket, "`]`")?;
        let over = Over::Filter(Box::new(condition));
        if matches!(self.peek(), Token::Flatten) {
            let of = left.map(Box::new);
            return Ok(self.node(
                Tree::Project {
                    of,
                    over,
                    each: None,
                },
                start,
            ));
        }
        self.project(left, over, FILTER, start)
    }

    /// Finishes a projection: takes what is applied to each element.
    fn project(
        &mut self,
        of: Option<Node>,
        over: Over,
        power: u8,
        start: usize,
    ) -> Result<Node, Fault> {
        let each = if self.power() < PROJECTION_STOP {
            None
        } else {
            match self.peek() {
                Token::OpenBracket | Token::Filter => Some(Box::new(self.expression_on(power)?)),
                Token::Dot => {
                    self.at += 1;
                    Some(Box::new(self.dot_right(power)?))
                }
                _ => return Err(self.unexpected("`.`, `[` or an operator")),
            }
        };
        let of = of.map(Box::new);
        Ok(self.node(Tree::Project { of, over, each }, start))
    }

    /// A bracket that is applied to each element of a projection.
    fn expression_on(&mut self, power: u8) -> Result<Node, Fault> {
        if matches!(self.peek(), Token::OpenBracket)
            && !matches!(
                (self.token(1), self.token(2)),
                (Token::Number(_) | Token::Colon, _) | (Token::Star, Token::CloseBracket)
            )
        {
            self.at += 1;
            return Err(self
                .unexpected("a number, `:` or `*]`")
                .with_help("several values of each are a[*].[b, c]"));
        }
        self.expression(power)
    }

    /// What may stand right of a dot.
    fn dot_right(&mut self, power: u8) -> Result<Node, Fault> {
        let start = self.start();
        match self.peek() {
            Token::Name(_) | Token::Quoted(_) | Token::Star => self.expression(power),
            Token::OpenBracket => self.list(start),
            Token::OpenBrace => self.object(start),
            Token::Flatten => Err(self
                .fault("`[]` after a dot selects nothing")
                .with_help("flatten with a[], without the dot")),
            Token::Number(_) => Err(self.fault("a number cannot follow a dot").with_help(
                "an element of a list is a[0]; a name that begins with a digit is \"1\"",
            )),
            _ => Err(self.unexpected("a name, `*`, `[` or `{`")),
        }
    }

    fn list(&mut self, start: usize) -> Result<Node, Fault> {
        self.at += 1;
        let mut items = Vec::new();
        loop {
            items.push(self.expression(0)?);
            match self.peek() {
                Token::Comma => self.at += 1,
                Token::CloseBracket => break,
                _ => return Err(self.unexpected("`,` or `]`")),
            }
        }
        self.at += 1;
        Ok(self.node(Tree::List(items), start))
    }

    fn object(&mut self, start: usize) -> Result<Node, Fault> {
        self.at += 1;
        let mut entries: Vec<(Key, Node)> = Vec::new();
        loop {
            let key = match self.peek() {
                Token::Name(_) | Token::Quoted(_) => match self.take() {
                    Token::Name(key) | Token::Quoted(key) => Key::new(key),
                    _ => Key::new(String::new()),
                },
                _ => return Err(self.unexpected("a name")),
            };
            self.expect(&Token::Colon, "`:`")?;
            let value = self.expression(0)?;
            match entries.iter_mut().find(|(known, _)| *known == key) {
                Some(entry) => entry.1 = value,
                None => entries.push((key, value)),
            }
            match self.peek() {
                Token::Comma => self.at += 1,
                Token::CloseBrace => break,
                _ => return Err(self.unexpected("`,` or `}`")),
            }
        }
        self.at += 1;
        Ok(self.node(Tree::Object(entries), start))
    }

    fn call(&mut self, left: Node) -> Result<Node, Fault> {
        let start = left.start;
        let Tree::Call(mut call) = left.tree else {
            return Err(self
                .fault("only the name of a function can stand before `(`")
                .with_help("as in length(lines)"));
        };
        if left.end != call.name_end {
            return Err(self.fault("the result of a function cannot be called"));
        }
        self.at += 1;
        if matches!(self.peek(), Token::CloseParenthesis) {
            self.at += 1;
            return Ok(self.node(Tree::Call(call), start));
        }
        loop {
            let argument = self.argument()?;
            call.arguments.push(argument);
            match self.peek() {
                Token::Comma => self.at += 1,
                Token::CloseParenthesis => break,
                _ => return Err(self.unexpected("`,` or `)`")),
            }
        }
        self.at += 1;
        Ok(self.node(Tree::Call(call), start))
    }

    fn argument(&mut self) -> Result<Node, Fault> {
        if !matches!(self.peek(), Token::Reference) {
            return self.expression(0);
        }
        let start = self.start();
        self.at += 1;
        let inner = self.expression(0)?;
        Ok(self.node(Tree::Reference(Box::new(inner)), start))
    }

    fn binary(
        &mut self,
        left: Node,
        power: u8,
        tree: fn(Box<Node>, Box<Node>) -> Tree,
    ) -> Result<Node, Fault> {
        self.at += 1;
        let start = left.start;
        let right = self.expression(power)?;
        Ok(self.node(tree(Box::new(left), Box::new(right)), start))
    }

    fn compare(&mut self, left: Node, comparison: Comparison) -> Result<Node, Fault> {
        self.at += 1;
        let start = left.start;
        let right = self.expression(COMPARE)?;
        Ok(self.node(
            Tree::Compare(comparison, Box::new(left), Box::new(right)),
            start,
        ))
    }

    fn node(&self, tree: Tree, start: usize) -> Node {
        Node::new(tree, start, self.end().max(start))
    }

    fn peek(&self) -> &Token {
        self.token(0)
    }

    fn token(&self, ahead: usize) -> &Token {
        let last = self.tokens.len() - 1;
        &self.tokens[(self.at + ahead).min(last)].token
    }

    fn start(&self) -> usize {
        self.tokens[self.at].start
    }

    /// Where the token before this one ends.
    fn end(&self) -> usize {
        match self.at {
            0 => 0,
            at => self.tokens[at - 1].end,
        }
    }

    fn take(&mut self) -> Token {
        let taken = std::mem::replace(&mut self.tokens[self.at].token, Token::End);
        self.at += 1;
        taken
    }

    fn expect(&mut self, token: &Token, name: &str) -> Result<(), Fault> {
        if std::mem::discriminant(self.peek()) == std::mem::discriminant(token) {
            self.at += 1;
            return Ok(());
        }
        Err(self.unexpected(name))
    }

    fn fault(&self, message: impl Into<String>) -> Fault {
        let here = &self.tokens[self.at.min(self.tokens.len() - 1)];
        Fault::new(FaultKind::Syntax, message).at(here.start, here.end)
    }

    fn unexpected(&self, wanted: &str) -> Fault {
        let found = match self.peek() {
            Token::End => "the expression ends here".to_owned(),
            Token::Name(name) => format!("found `{name}`"),
            Token::Quoted(name) => format!("found \"{name}\""),
            Token::Variable(name) => format!("found `${name}`"),
            Token::Number(number) => format!("found `{number}`"),
            Token::Text(_) => "found a string".to_owned(),
            Token::Literal(_) => "found a literal".to_owned(),
            other => format!("found `{}`", symbol(other)),
        };
        let fault = self.fault(format!("expected {wanted}, {found}"));
        match self.advice() {
            Some(advice) => fault.with_help(advice),
            None => fault,
        }
    }

    /// What to do about a token that is not expected, where it is a habit from other languages.
    fn advice(&self) -> Option<&'static str> {
        Some(match self.peek() {
            Token::End => "finish the expression, or remove what stands before its end",
            Token::Name(name) if name.eq_ignore_ascii_case("and") => "write && for and",
            Token::Name(name) if name.eq_ignore_ascii_case("or") => "write || for or",
            Token::Name(name) if name.eq_ignore_ascii_case("not") => "write ! before the condition",
            Token::Name(name) if name.eq_ignore_ascii_case("in") => "ask contains(list, value)",
            Token::Name(name) if name.eq_ignore_ascii_case("is") => "compare with ==",
            Token::Number(_) => "a number is a literal between backticks: `5`",
            Token::Text(_) | Token::Literal(_) => "put an operator such as == before the value",
            Token::Name(_) | Token::Quoted(_) | Token::Variable(_) => return None,
            other => match symbol(other) {
                "=" => "compare with ==",
                "." => "remove the dot, or write the name that stands before it",
                "&" => "write && for and",
                ")" | "]" | "}" => "remove it, or write what is missing before it",
                _ => return None,
            },
        })
    }
}

/// `left.right`: paths become one path, a projection moves onto the whole left side.
fn join(left: Node, right: Node) -> Node {
    let (start, end) = (left.start, right.end.max(left.end));
    let tree = match (left.tree, right.tree) {
        (
            Tree::Path { of, mut steps },
            Tree::Path {
                of: None,
                steps: more,
            },
        ) => {
            steps.extend(more);
            Tree::Path { of, steps }
        }
        (Tree::Current, Tree::Path { of: None, steps }) => Tree::Path { of: None, steps },
        (left_tree, Tree::Path { of: None, steps }) => Tree::Path {
            of: Some(Box::new(Node::new(left_tree, left.start, left.end))),
            steps,
        },
        (left_tree, Tree::Project { of, over, each }) => {
            let left = Node::new(left_tree, left.start, left.end);
            let of = match of {
                Some(of) => join(left, *of),
                None => left,
            };
            Tree::Project {
                of: Some(Box::new(of)),
                over,
                each,
            }
        }
        (left_tree, right_tree) => Tree::Pipe(
            Box::new(Node::new(left_tree, left.start, left.end)),
            Box::new(Node::new(right_tree, right.start, right.end)),
        ),
    };
    Node::new(tree, start, end)
}

fn symbol(token: &Token) -> &'static str {
    match token {
        Token::Dot => ".",
        Token::Star => "*",
        Token::Comma => ",",
        Token::Colon => ":",
        Token::At => "@",
        Token::And => "&&",
        Token::Or => "||",
        Token::Pipe => "|",
        Token::Not => "!",
        Token::Reference => "&",
        Token::Assign => "=",
        Token::Equal => "==",
        Token::NotEqual => "!=",
        Token::Less => "<",
        Token::LessOrEqual => "<=",
        Token::Greater => ">",
        Token::GreaterOrEqual => ">=",
        Token::OpenParenthesis => "(",
        Token::CloseParenthesis => ")",
        Token::OpenBrace => "{",
        Token::CloseBrace => "}",
        Token::OpenBracket => "[",
        Token::CloseBracket => "]",
        Token::Flatten => "[]",
        Token::Filter => "[?",
        _ => "",
    }
}
