"""The command that solves differential equations."""

import importlib

import typer

from kernelfield.commands.console import boundary, err, out, print_files, print_table, say
from kernelfield.commands.options import (
    EquationFile,
    NamedProblem,
    Nodes,
    Picture,
    Seed,
    ShowProblems,
    SolutionFolder,
    SolverName,
)
from kernelfield.progress import status


def solve(
    name: NamedProblem = None,
    output: SolutionFolder = None,
    equation: EquationFile = None,
    show: ShowProblems = False,
    solver: SolverName = "auto",
    nodes: Nodes = None,
    seed: Seed = 0,
    picture: Picture = True,
) -> None:
    """Solve a differential equation, with error bars."""
    solving = importlib.import_module("kernelfield.solving")  # its imports take time that other commands should not
    if show:
        return print_table(solving.HEADINGS, solving.listing())
    if (name is None) == (equation is None):
        raise typer.BadParameter("give the NAME of a problem, or --equation FILE, or --list to see the names")
    if output is None:
        raise typer.BadParameter("give a folder for the solution, -o FOLDER")
    with boundary():
        problem = solving.posed(name, equation)
        with status(err, problem.name, doing="solving"):
            record, files = solving.run(problem, output, solver=solver, nodes=nodes, seed=seed, picture=picture)
        say(*record["notes"])
        out.print(f"{problem.name}: {record['equation']}", style="bold", markup=False)
        words = f"{solving.caption(record)}\nin {record['seconds']:.2g} s by {record['method']}"
        out.print(words, soft_wrap=True, markup=False)
        print_files(**files)
    return None
