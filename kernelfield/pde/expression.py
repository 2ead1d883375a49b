"""Expressions of a file: text to symbols, symbols to functions of tensors.

A text is read by Python's grammar into a tree, of which nothing is ever executed: the tree may hold numbers, names
from a fixed list, + - * / ** and calls of a fixed list of functions, and each of its nodes becomes
one of sympy. Sympy differentiates; a walk over its tree, again without generated code, gives values.

Sympy computes with exact numbers, so that 9**9**9**9 would never end. Numbers are therefore followed
in floating point as the tree is read, and one that overflows is refused before sympy sees it.
"""

import ast
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import sympy
import torch
from torch import Tensor

LARGEST = 1000  # nodes of the tree of an expression, and letters for each four of them
DEEPEST = 12  # functions and powers within each other: the fourth derivative grows as a power of this
SHOWN = 60  # letters of an expression in a sentence
BITS = 4096  # of the exact numbers that a power may give rise to; the largest double has 1024


class Kink(ValueError):
    """A derivative of abs or sign was asked for that is no function."""


class Sign(sympy.Function):
    """The sign, without sympy's attempts to decide it beforehand."""

    def fdiff(self, argindex: int = 1) -> sympy.Expr:
        raise Kink("sign has no derivative where it jumps")


class Absolute(sympy.Function):
    """The absolute value of a real number, whatever sympy knows of it."""

    def fdiff(self, argindex: int = 1) -> sympy.Expr:
        return Sign(self.args[0])


@dataclass(frozen=True)
class _Function:
    symbolic: Callable[[sympy.Expr], sympy.Expr]
    number: Callable[[float], float]


FUNCTIONS = {
    "sin": _Function(sympy.sin, math.sin),
    "cos": _Function(sympy.cos, math.cos),
    "tan": _Function(sympy.tan, math.tan),
    "asin": _Function(sympy.asin, math.asin),
    "acos": _Function(sympy.acos, math.acos),
    "atan": _Function(sympy.atan, math.atan),
    "sinh": _Function(sympy.sinh, math.sinh),
    "cosh": _Function(sympy.cosh, math.cosh),
    "tanh": _Function(sympy.tanh, math.tanh),
    "exp": _Function(sympy.exp, math.exp),
    "log": _Function(sympy.log, math.log),
    "sqrt": _Function(sympy.sqrt, math.sqrt),
    "erf": _Function(sympy.erf, math.erf),
    "abs": _Function(Absolute, abs),
    "sign": _Function(Sign, lambda value: float((value > 0) - (value < 0))),
}
CONSTANTS = {"pi": (sympy.pi, math.pi), "e": (sympy.E, math.e)}
TENSORS: dict[Any, Callable[[Tensor], Tensor]] = {
    sympy.sin: torch.sin,
    sympy.cos: torch.cos,
    sympy.tan: torch.tan,
    sympy.cot: lambda x: x.tan().reciprocal(),  # what sympy makes of tan(x + pi/2)
    sympy.asin: torch.asin,
    sympy.acos: torch.acos,
    sympy.atan: torch.atan,
    sympy.sinh: torch.sinh,
    sympy.cosh: torch.cosh,
    sympy.tanh: torch.tanh,
    sympy.exp: torch.exp,
    sympy.log: torch.log,
    sympy.erf: torch.erf,
    sympy.Abs: torch.abs,  # what sympy makes of sqrt(x**2)
    sympy.sign: torch.sign,
    Absolute: torch.abs,
    Sign: torch.sign,
}


def symbol(name: str) -> sympy.Symbol:
    """The symbol of a name: real, as everything here."""
    return sympy.Symbol(name, real=True)


def parse(text: str | float, names: Sequence[str]) -> sympy.Expr:
    """The expression that a text or a number stands for, in symbols of these names.

    Errors: ValueError with what is wrong with the text and what to write instead.

    >>> parse("exp(-t) * sin(2*pi*x)", ("x", "t")).diff(symbol("t"))
    -exp(-t)*sin(2*pi*x)
    """
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise ValueError(f"must be a number or an expression in quotes, got {text!r}")
    source = text if isinstance(text, str) else repr(text)
    if len(source) > 4 * LARGEST:
        raise ValueError(f"{_short(source)} has {len(source)} letters; an expression may have {4 * LARGEST}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # of texts that are refused below with a better sentence
            tree = ast.parse(source.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ValueError(f"{_short(source)} is no expression; write one such as 2*sin(pi*x)**2") from error
    if sum(1 for _ in ast.walk(tree)) > LARGEST:  # before any recursion
        raise ValueError(f"{_short(source)} has more than {LARGEST} parts; write it more plainly")
    result = _Reader(source, names).read(tree, 0)[0]
    if result.has(sympy.zoo, sympy.nan, sympy.oo, sympy.S.NegativeInfinity):
        raise ValueError(f"{_short(source)} divides by zero; write it without")
    if result.has(sympy.I):
        raise ValueError(f"{_short(source)} takes the root of something negative; expressions are real")
    return result


Read = tuple[sympy.Expr, float | None]  # an expression, and its value where it is a constant


class _Reader:
    """One walk over the tree of a text."""

    def __init__(self, text: str, names: Sequence[str]) -> None:
        self.text, self.names = text, names

    def read(self, node: ast.AST, depth: int) -> Read:
        if depth > DEEPEST:
            raise ValueError(
                f"{_short(self.text)} nests more than {DEEPEST} functions and powers; write it more plainly"
            )
        match node:
            case ast.Constant(value=bool()):
                raise self._refused(node, "truth values are not known")
            case ast.Constant(value=int() | float() as literal):
                size = self._finite(node, lambda: float(literal))
                return sympy.Rational(repr(literal)), size
            case ast.Name(id=name):
                return self._named(name)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
                inner, value = self.read(operand, depth)
                if isinstance(sign, ast.UAdd):
                    return inner, value
                return -inner, None if value is None else -value
            case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div() | ast.Pow() as operation):
                return self._combined(node, operation, depth)
            case ast.BinOp(op=ast.BitXor()):
                raise self._refused(node, "a power is written **")
            case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in FUNCTIONS:
                inner, value = self.read(argument, depth + 1)
                function = FUNCTIONS[name]
                number = None if value is None else self._finite(node, lambda: function.number(value))
                return function.symbolic(inner), number
            case ast.Call(func=ast.Name(id=name)) if name in FUNCTIONS:
                raise self._refused(node, f"{name} takes one argument")
            case ast.Call(func=ast.Name(id=name)):
                raise self._refused(node, f"{name!r} is no function here{near(name, FUNCTIONS)}")
        raise self._refused(node, "only numbers, names, + - * / ** and functions are allowed")

    def _named(self, name: str) -> Read:
        if name in self.names:
            return symbol(name), None
        if name in CONSTANTS:
            return CONSTANTS[name]
        if name in FUNCTIONS:
            raise ValueError(f"{_short(self.text)} lacks the argument of {name}; write {name}(...)")
        raise ValueError(f"{_short(self.text)} holds the unknown name {name!r}{near(name, (*self.names, *CONSTANTS))}")

    def _combined(self, node: ast.BinOp, operation: ast.operator, depth: int) -> Read:
        power = isinstance(operation, ast.Pow)
        (left, a), (right, b) = self.read(node.left, depth + power), self.read(node.right, depth + power)
        number = None
        if a is not None and b is not None:
            number = self._finite(node, lambda: _arithmetic(operation, a, b))
        match operation:
            case ast.Add():
                return left + right, number
            case ast.Sub():
                return left - right, number
            case ast.Mult():
                return left * right, number
            case ast.Div():
                return left / right, number
        if b is not None and abs(b) * _bits(left) > BITS:
            raise self._refused(node, "the power is too large to be computed")
        return left**right, number

    def _finite(self, node: ast.expr, value: Callable[[], float]) -> float:
        try:
            result = value()
        except (OverflowError, ZeroDivisionError, ValueError) as error:
            raise self._refused(node, "it is no finite real number") from error
        if isinstance(result, complex) or not math.isfinite(result):
            raise self._refused(node, "it is no finite real number")
        return result

    def _refused(self, node: ast.AST, reason: str) -> ValueError:
        part = ast.get_source_segment(self.text.strip(), node) if isinstance(node, ast.expr) else None
        return ValueError(f"{_short(part or self.text)} cannot be used: {reason}")


def _short(text: str) -> str:
    """A text in a sentence."""
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")


def _arithmetic(operation: ast.operator, a: float, b: float) -> float:
    match operation:
        case ast.Add():
            return a + b
        case ast.Sub():
            return a - b
        case ast.Mult():
            return a * b
        case ast.Div():
            return a / b
    return a**b


def _bits(expression: sympy.Expr) -> int:
    """Of all exact numbers in an expression, which is more than a power of it multiplies."""
    numbers = expression.atoms(sympy.Rational)
    return sum((abs(n.p).bit_length() - 1) + (n.q.bit_length() - 1) for n in numbers)


def near(name: str, known: Sequence[str] | Mapping[str, object]) -> str:
    """The end of a sentence about an unknown name: the nearest one, and all."""
    close = get_close_matches(name, list(known), n=1)
    return (f"; did you mean {close[0]!r}?" if close else ";") + f" there are {', '.join(known)}"


def values(expression: sympy.Expr, names: Mapping[str, Tensor], like: Tensor) -> Tensor:
    """The value (n,) of an expression, for the values (n,) of its names; shape, device and dtype of `like` (n,).

    Differentiable in the names. Common parts are computed once.

    >>> x = torch.tensor([1.0, 4.0])
    >>> values(parse("2*sqrt(x)", ("x",)), {"x": x}, x)
    tensor([2., 4.])
    """
    done: dict[sympy.Expr, Tensor] = {}

    def walk(part: sympy.Expr) -> Tensor:
        if part not in done:
            done[part] = compute(part)
        return done[part]

    def compute(part: sympy.Expr) -> Tensor:
        if part.is_Symbol:
            return names[part.name]
        if part.is_Number or part.is_NumberSymbol:
            return like.new_tensor(float(part))
        if part.is_Add:
            return sum((walk(inner) for inner in part.args[1:]), walk(part.args[0]))
        if part.is_Mul:
            return math.prod((walk(inner) for inner in part.args[1:]), start=walk(part.args[0]))
        if isinstance(part, sympy.exp):
            return walk(part.args[0]).exp()
        if part.is_Pow:
            return _power(walk(part.base), part.exp, walk)
        if part.func in TENSORS:
            return TENSORS[part.func](walk(part.args[0]))
        raise Kink(f"{part} is no function of numbers")

    return walk(expression).expand_as(like)


def _power(base: Tensor, exponent: sympy.Expr, walk: Callable[[sympy.Expr], Tensor]) -> Tensor:
    if exponent == sympy.S.Half:
        return base.sqrt()
    if exponent == -sympy.S.Half:
        return base.rsqrt()
    if exponent.is_Integer:
        return base ** int(exponent)  # keeps the sign of a negative base, and its slope at zero
    return base ** walk(exponent)
