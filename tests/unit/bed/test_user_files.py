"""A user's own files: where they may lie, what is read, and what is refused."""

import os
import tempfile
from pathlib import Path

import pytest

from orchestrator.bed import user_files
from orchestrator.bed.model import read_bed
from orchestrator.errors import InvalidInput

MAIN = "/etc/postfix/main.cf"


@pytest.mark.parametrize(
    "path", ["main.cf", "/", "/etc/", "//etc/x", "/etc/../x", "/etc/./x", "/etc/a b", "/etc/$x", "/testbed/x",
             "/proc/1/mem", "/dev/null", "/sys/x", "/etc/resolv.conf", "/etc/hosts", "/etc/a\n", "/e" * 30]
)  # fmt: skip
def test_a_path_that_the_bed_cannot_give_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"plain characters|written by"):
        user_files.node_path(path)


@pytest.mark.parametrize("path", [MAIN, "/usr/local/lib/policy.pl", "/etc/resolv.conf.d/x", "/a"])
def test_an_ordinary_path_is_taken(path: str) -> None:
    assert user_files.node_path(path) == path


def test_files_together_have_bounds_and_make_a_tree() -> None:
    with pytest.raises(ValueError, match="bytes of files"):
        user_files.within_bounds({"/a": "x" * user_files.MAX_FILES_B, "/b": "x"})
    with pytest.raises(ValueError, match="1,001 files"):
        user_files.within_bounds({f"/{n}": "" for n in range(1_001)})
    with pytest.raises(ValueError, match="the folder of /a/b/c"):
        user_files.within_bounds({"/a": "", "/a/b/c": ""})


def test_a_tree_is_read_as_it_lies_without_what_a_node_compiles_itself(tmp_path: Path) -> None:
    postfix = tmp_path / "etc" / "postfix"
    postfix.mkdir(parents=True)
    (postfix / "main.cf").write_text("a = b\n")
    (postfix / "users").write_text("u OK\n")
    (postfix / "users.db").write_bytes(b"\0\xff")
    (postfix / "alias").symlink_to("users")
    assert user_files.read_tree(tmp_path) == {
        MAIN: "a = b\n", "/etc/postfix/users": "u OK\n", "/etc/postfix/alias": "u OK\n"
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["binary", "fifo", "outside", "dangling", "loop"])
def test_what_is_no_text_or_lies_elsewhere_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "tree"
    folder.mkdir()
    odd = folder / "odd"
    if kind == "binary":
        odd.write_bytes(b"\xff")
    elif kind == "fifo":
        os.mkfifo(odd)
    else:
        odd.symlink_to({"outside": "/etc/passwd", "dangling": "nowhere", "loop": "odd"}[kind])
    with pytest.raises(InvalidInput, match="odd"):
        user_files.read_tree(folder)


@pytest.mark.parametrize("where", ["inside", "outside"])
def test_a_link_to_a_folder_is_refused_by_name(tmp_path: Path, where: str) -> None:
    folders = {"inside": tmp_path / "tree" / "postfix", "outside": tmp_path / "postfix"}
    folders[where].mkdir(parents=True)
    (folders[where] / "main.cf").write_text("a = b\n")
    (tmp_path / "tree" / "etc").mkdir(parents=True)
    (tmp_path / "tree" / "etc" / "linked").symlink_to(folders[where])
    with pytest.raises(InvalidInput, match="etc/linked: it is a link") as refused:
        user_files.read_tree(tmp_path / "tree")
    assert "symbolic links" in refused.value.needed
    with pytest.raises(InvalidInput, match="etc/linked"):
        user_files.read_beside(tmp_path / "bed.yaml", {"/x": "tree"})


def test_a_folder_that_cannot_be_read_is_refused_by_name() -> None:
    with tempfile.TemporaryDirectory() as made:
        tree = Path(made)
        tree.chmod(0o755)
        (tree / "closed").mkdir()
        (tree / "closed" / "main.cf").write_text("a = b\n")
        (tree / "closed").chmod(0)
        user = os.geteuid()
        try:
            if user == 0:  # root reads any folder
                os.seteuid(65534)
            with pytest.raises(InvalidInput, match="closed: Permission denied"):
                user_files.read_tree(tree)
            with pytest.raises(InvalidInput, match="closed/x: Permission denied"):
                user_files.read_tree(tree / "closed" / "x")
        finally:
            if user == 0:
                os.seteuid(0)
            (tree / "closed").chmod(0o700)


def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="File name too long"):
        user_files.read_beside(tmp_path / "bed.yaml", {"/x": "n" * 300})
    with pytest.raises(InvalidInput, match="File name too long"):
        user_files.read_tree(tmp_path / ("n" * 300))


def test_a_bed_file_names_files_and_folders_beside_it_or_holds_their_text(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "main.cf").write_text("a = b\n")
    (tmp_path / "policy").write_text("#!/bin/sh\n")
    bed = tmp_path / "bed.yaml"
    bed.write_text(
        "name: x\nnodes: {r: {service: postfix, files: "
        "{/etc/postfix: conf, /usr/bin/policy: policy, /etc/x: {text: y}}}}\n"
    )
    assert read_bed(bed).nodes["r"].files == {MAIN: "a = b\n", "/usr/bin/policy": "#!/bin/sh\n", "/etc/x": "y"}


def test_a_list_has_comments(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("# who\n a@d0.test \n\nb@d0.test\n")
    assert user_files.read_lines(tmp_path / "list") == ["a@d0.test", "b@d0.test"]


def test_a_list_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(b"\xef\xbb\xbfa@d0.test\r\nb@d0.test\r\n")
    assert user_files.read_lines(tmp_path / "list") == ["a@d0.test", "b@d0.test"]


def test_a_zone_file_beside_the_bed_file_is_read_and_a_folder_is_none(tmp_path: Path) -> None:
    zone = "$TTL 60\n@ IN SOA ns hostmaster (1 2 3 4 5)\n@ NS ns\nns A 192.0.2.1\n"
    (tmp_path / "example.zone").write_text(zone)
    bed = tmp_path / "bed.yaml"
    bed.write_text("name: x\nzones: {x.example: example.zone}\nnodes: {dns: {service: bind}}\n")
    assert read_bed(bed).zones == {"x.example": zone}
    bed.write_text("name: x\nzones: {x.example: .}\nnodes: {dns: {service: bind}}\n")
    with pytest.raises(InvalidInput, match="not a regular file"):
        read_bed(bed)
    bed.write_text("name: x\nzones: {x.example: /etc/passwd}\nnodes: {dns: {service: bind}}\n")
    with pytest.raises(InvalidInput, match=r"zones: x\.example: the name of a file beside"):
        read_bed(bed)
