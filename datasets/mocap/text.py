"""Text of motion-capture files, and one-line errors that name the file and the line."""

from __future__ import annotations

from pathlib import Path

LARGEST = 1e12  # beyond any length or angle; keeps sums of products finite
MOST_JOINTS = 1000  # keeps a hostile file from asking for all memory


def malformed(path: str | Path, line: int, problem: str) -> ValueError:
    """The error for a problem at a line, counted from 1; line 0 stands for the file as a whole."""
    return ValueError(f"{path}:{line}: {problem}" if line else f"{path}: {problem}")


def read_text(path: str | Path) -> str:
    """The text of a file, its lines ended by a line feed.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8", "replace")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error})") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def numbered_lines(text: str, first: int = 1) -> list[tuple[int, list[str]]]:
    """The words of each line that has any, with the number of the line; what follows # is left out."""
    split = ((number, line.partition("#")[0].split()) for number, line in enumerate(text.split("\n"), first))
    return [(number, words) for number, words in split if words]


def read_number(path: str | Path, line: int, word: str) -> float:
    """A finite number of sensible size.

    Raises:
        ValueError: one line if the word is another thing.
    """
    try:
        value = float(word) if "_" not in word else float("nan")  # Python reads 1_0 as ten
    except ValueError:
        value = float("nan")
    if not abs(value) < LARGEST:
        raise malformed(path, line, f"expected a number, got {word[:40]!r}")
    return value


def read_numbers(path: str | Path, line: int, words: list[str], count: int, name: str) -> list[float]:
    """So many numbers.

    Raises:
        ValueError: one line if there are more or fewer, or if one is no number.
    """
    if len(words) != count:
        raise malformed(path, line, f"{name} must have {count} numbers, got {len(words)}")
    return [read_number(path, line, word) for word in words]
