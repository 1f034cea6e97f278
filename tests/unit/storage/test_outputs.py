"""Folders of results: what may be replaced there, and what never is."""

import json
from pathlib import Path

import pytest

from foodseg.errors import UserError
from foodseg.storage.outputs import FOLDER_MARK, RECORD, claim_outputs, note_folder, renew_folder, written_names


def write(out: Path, name: str, data: bytes, by: str = "predict", inputs: tuple[str, ...] = ()) -> None:
    with claim_outputs(str(out), [name], by=by, inputs=inputs) as outputs:
        outputs.write_bytes(name, data)


def test_a_command_replaces_what_it_wrote(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    write(out, "lunch.png", b"1")
    write(out, "dinner.png", b"2")
    write(out, "lunch.png", b"3")
    assert (out / "lunch.png").read_bytes() == b"3"
    assert written_names(str(out)) == {"lunch.png", "dinner.png"}
    assert sorted(path.name for path in out.iterdir()) == [RECORD, "dinner.png", "lunch.png"]


@pytest.mark.parametrize(
    "there", ["file", "link", "dangling link", "folder", "other command", "changed", "folder of own"]
)
def test_what_others_wrote_stays(tmp_path: Path, there: str) -> None:
    out, target = tmp_path / "out", tmp_path / "photo.png"
    out.mkdir()
    if there == "file":
        (out / "lunch.png").write_bytes(b"mine")
    elif there == "link":
        target.write_bytes(b"mine")
        (out / "lunch.png").symlink_to(target)
    elif there == "dangling link":
        (out / "lunch.png").symlink_to(target)
    elif there == "folder":
        (out / "lunch.png").mkdir()
    elif there == "other command":
        write(out, "lunch.png", b"mine", by="evaluate")
    elif there == "changed":
        write(out, "lunch.png", b"theirs")
        (out / "lunch.png").write_bytes(b"mine")
    else:
        write(out, "lunch.png", b"theirs")
        (out / "lunch.png").unlink()
        (out / "lunch.png").mkdir()
    before = (out / "lunch.png").lstat()
    with pytest.raises(UserError, match=r"lunch\.png is there already, and `foodseg predict` did not write it"):
        claim_outputs(str(out), ["soup.png", "lunch.png"], by="predict")
    assert (out / "lunch.png").lstat() == before and not (out / "soup.png").exists()


@pytest.mark.parametrize("name", ["Lunch.PNG", "LUNCH.png", "lunch.Png"])
def test_names_that_differ_in_case_alone_are_one(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(UserError, match=rf"{name} is there already"):
        claim_outputs(str(tmp_path), ["lunch.png"], by="predict")


def test_names_that_differ_in_composition_alone_are_one(tmp_path: Path) -> None:
    (tmp_path / "cre\u0300me.png").write_bytes(b"mine")
    with pytest.raises(UserError, match="is there already"):
        claim_outputs(str(tmp_path), ["cr\u00e8me.png"], by="predict")


def test_an_input_stays_even_where_the_command_wrote_it(tmp_path: Path) -> None:
    out, link = tmp_path / "out", tmp_path / "link"
    write(out, "lunch.png", b"label map")
    link.symlink_to(out)
    (tmp_path / "photo.png").symlink_to(out / "lunch.png")
    for folder in (out, link):
        for read in (out / "lunch.png", link / "lunch.png", tmp_path / "photo.png"):
            with pytest.raises(UserError, match=r"holds lunch\.png, which is read here and would be replaced"):
                claim_outputs(str(folder), ["lunch.png"], by="predict", inputs=[str(read)])
    claim_outputs(str(out), ["lunch.overlay.png"], by="predict", inputs=[str(out / "lunch.png")])


def test_what_a_killed_command_left_is_replaced(tmp_path: Path) -> None:
    outputs = claim_outputs(str(tmp_path), ["a.png", "b.png"], by="predict")
    outputs.__enter__()
    outputs.write_bytes("a.png", b"half of the work")  # and here it was killed
    write(tmp_path, "a.png", b"whole")
    assert (tmp_path / "a.png").read_bytes() == b"whole"


def test_what_a_failed_command_did_not_write_is_not_its_own(tmp_path: Path) -> None:
    with pytest.raises(KeyError), claim_outputs(str(tmp_path), ["a.png", "b.png"], by="predict") as outputs:
        outputs.write_bytes("a.png", b"1")
        raise KeyError
    assert written_names(str(tmp_path)) == {"a.png"}
    (tmp_path / "b.png").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"b\.png is there already"):
        claim_outputs(str(tmp_path), ["b.png"], by="predict")


def test_nothing_written_leaves_no_record(tmp_path: Path) -> None:
    with claim_outputs(str(tmp_path), ["a.png"], by="predict"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_files_written_in_other_ways_are_recorded(tmp_path: Path) -> None:
    for content in ("1", "2"):
        with claim_outputs(str(tmp_path), ["report.md", "report.html"], by="evaluate"):
            (tmp_path / "report.md").write_text(content)
    assert written_names(str(tmp_path)) == {"report.md"}
    (tmp_path / "report.md").write_text("edited")
    with pytest.raises(UserError, match=r"report\.md is there already"):
        claim_outputs(str(tmp_path), ["report.md"], by="evaluate")


@pytest.mark.parametrize("record", ["", "[]", "{}", '{"format": 1, "files": {"a": 3}}', '{"format": 2, "files": {}}'])
def test_a_damaged_record_is_refused(tmp_path: Path, record: str) -> None:
    (tmp_path / RECORD).write_text(record)
    with pytest.raises(UserError, match=r"\.foodseg-outputs is damaged"):
        claim_outputs(str(tmp_path), ["a.png"], by="predict")


def test_a_file_as_folder_and_a_long_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file, not a folder"):
        claim_outputs(str(tmp_path / "file"), ["a.png"], by="predict")
    with pytest.raises(UserError, match="longer than the 255 bytes"):
        claim_outputs(str(tmp_path), [f"{'a' * 252}.png"], by="predict")


def test_many_are_counted(tmp_path: Path) -> None:
    for index in range(5):
        (tmp_path / f"{index}.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"0\.png, 1\.png, 2\.png, and 2 others are there already"):
        claim_outputs(str(tmp_path), [f"{index}.png" for index in range(5)], by="predict")


def test_two_commands_in_one_folder_keep_each_others_entries(tmp_path: Path) -> None:
    first = claim_outputs(str(tmp_path), ["a.png"], by="predict")
    second = claim_outputs(str(tmp_path), ["b.png"], by="predict")
    with first, second:
        first.write_bytes("a.png", b"1")
        second.write_bytes("b.png", b"2")
    assert written_names(str(tmp_path)) == {"a.png", "b.png"}
    assert set(json.loads((tmp_path / RECORD).read_text())["files"]["a.png"]) == {"by", "sha256"}


def demo(out: Path, finished: bool = True) -> None:
    renew_folder(out, ["run", "images.png"])
    (out / "run").mkdir()
    (out / "run" / "model").write_text("m")
    (out / "images.png").write_text("p")
    if finished:
        note_folder(out)


@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_of_the_same_command_is_renewed(tmp_path: Path, finished: bool) -> None:
    out = tmp_path / "demo"
    demo(out, finished)
    (out / ".DS_Store").write_text("")
    renew_folder(out, ["run", "images.png"])
    assert [path.name for path in out.iterdir()] == [FOLDER_MARK]


@pytest.mark.parametrize(
    ("finished", "name"), [(True, "run/notes.txt"), (True, "mine.jpg"), (False, "mine.jpg"), (False, "more/a.txt")]
)
def test_a_folder_with_files_of_others_stays(tmp_path: Path, finished: bool, name: str) -> None:
    out = tmp_path / "demo"
    demo(out, finished)
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("mine")
    with pytest.raises(UserError, match=rf"holds {name}, which this command did not write and would delete"):
        demo(out)
    assert (out / name).read_text() == "mine" and (out / "run" / "model").exists()


def test_a_folder_that_is_not_of_the_command_or_holds_its_input_stays(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("mine")
    with pytest.raises(UserError, match="is not empty and does not hold an earlier result"):
        demo(tmp_path)
    demo(tmp_path / "demo")
    with pytest.raises(UserError, match="which is read: name another folder"):
        renew_folder(tmp_path / "demo", ["run", "images.png"], inputs=[str(tmp_path / "demo" / "run")])
    (tmp_path / "link").symlink_to(tmp_path / "demo")
    renew_folder(tmp_path / "link", ["run", "images.png"])
    assert [path.name for path in (tmp_path / "demo").iterdir()] == [FOLDER_MARK]
