"""What the model may call: a calculator, and a search in the articles of `articles.json`."""

import ast
import json
import operator
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

from functions.sdk import PerReplica, ToolError, tool

ARTICLES = Path(__file__).with_name("articles.json")
OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.USub: operator.neg,
}


@tool
def calculator(expression: str) -> float:
    """Compute an expression of numbers with + - * / and parentheses.

    Args:
        expression: Such as (3 + 4) * 2.5
    """
    try:
        value = _value(ast.parse(expression[:200], mode="eval").body)
    except (SyntaxError, ValueError):
        raise ToolError(f"{expression!r} must be of numbers, + - * / and parentheses") from None
    except ZeroDivisionError:
        raise ToolError("that divides by zero") from None
    return int(value) if value == int(value) else round(value, 6)


def open_articles() -> Iterator[sqlite3.Connection]:
    """The articles in a full-text index; made once for each replica."""
    database = sqlite3.connect(":memory:", check_same_thread=False)
    database.execute("CREATE VIRTUAL TABLE articles USING fts5(title, text, tokenize = 'porter')")
    articles = json.loads(ARTICLES.read_text(encoding="utf-8"))
    database.executemany("INSERT INTO articles VALUES (:title, :text)", articles)
    yield database
    database.close()


@tool
def search(query: str, articles: Annotated[sqlite3.Connection, PerReplica(open_articles)]) -> str:
    """Search the product's help articles; gives the one that fits best.

    Args:
        query: A few words, such as: reset password
    """
    words = " OR ".join(f'"{word}"' for word in query.replace('"', " ").split())
    statement = "SELECT text FROM articles WHERE articles MATCH ? ORDER BY rank LIMIT 1"
    found = articles.execute(statement, (words,)).fetchone() if words else None
    if found is None:
        raise ToolError(f"no article has {query!r}; try other words")
    return str(found[0])


def _value(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return float(OPERATORS[type(op)](_value(left), _value(right)))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case _:
            raise ValueError
