"""Text as editors save it becomes the same string, or a sentence that says what to do."""

from pathlib import Path

import pytest

from foodseg import storage
from foodseg.errors import UserError
from foodseg.storage.text_files import decode_text

TEXT = "0\tbackground\n1\tcr\u00e8me br\u00fbl\u00e9e\n2\t\u5bff\u53f8\n"


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_utf8_with_and_without_mark_in_every_line_ending(mark: str, ending: str) -> None:
    assert decode_text((mark + TEXT).replace("\n", ending).encode(), "classes.txt") == TEXT


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_encodings_that_a_mark_names(encoding: str) -> None:
    assert decode_text(f"\ufeff{TEXT}".replace("\n", "\r\n").encode(encoding), "classes.txt") == TEXT


def test_a_mark_in_the_middle_of_files_put_one_behind_the_other() -> None:
    assert decode_text("\ufeffa\n\ufeffb\n".encode(), "train.txt") == "a\nb\n"


def test_an_empty_file_and_one_of_a_mark_alone() -> None:
    assert decode_text(b"", "train.txt") == decode_text(b"\xef\xbb\xbf", "train.txt") == ""


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("a\ncr\u00e8me".encode("cp1252"), r"read train.txt as text: byte 4 \(0xe8\) is not UTF-8; save it as UTF-8"),
        ("\ufeffab".encode("utf-16-le")[:-1], r"byte 4 \(0x62\) is not UTF-16; save it as UTF-8"),
        ("ab\n".encode("utf-16-le"), "byte 1 is NUL .UTF-16 without a byte order mark.*save it as UTF-8"),
        ("ab\n".encode("utf-16-be"), "byte 0 is NUL .UTF-16 without a byte order mark"),
        (b"abcdefgh\0", "byte 8 is NUL .is it a text file"),
        (b"\x89PNG\r\n\x1a\n", r"byte 0 \(0x89\) is not UTF-8"),
    ],
)  # fmt: skip
def test_bytes_that_are_not_text_are_refused_in_one_sentence(data: bytes, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        decode_text(data, "train.txt")


def test_storage_reads_text_in_this_way(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\ntwo\r\n".encode("utf-16"))
    assert storage.read_text(str(tmp_path / "a.txt")) == "one\ntwo\n"
