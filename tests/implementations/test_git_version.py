import pytest

from indexfuzz.implementations.loading.git_version import git_version

COMMIT, TAG_OBJECT = "a" * 40, "b" * 40


def git(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_detached_head(tmp_path):
    assert git_version(git(tmp_path, {".git/HEAD": f"{COMMIT}\n"})) == "git-aaaaaaaaaaaa"


def test_branch(tmp_path):
    files = {".git/HEAD": "ref: refs/heads/main\n", ".git/refs/heads/main": f"{COMMIT}\n"}
    assert git_version(git(tmp_path, files)) == "git-aaaaaaaaaaaa"


def test_packed_branch_and_lightweight_tag(tmp_path):
    packed = f"# pack-refs with: peeled\n{COMMIT} refs/heads/main\n{COMMIT} refs/tags/v1.5\n"
    files = {".git/HEAD": "ref: refs/heads/main\n", ".git/packed-refs": packed}
    assert git_version(git(tmp_path, files)) == "1.5"


def test_packed_annotated_tag(tmp_path):
    packed = f"{TAG_OBJECT} refs/tags/v1.5\n^{COMMIT}\n"
    assert git_version(git(tmp_path, {".git/HEAD": COMMIT, ".git/packed-refs": packed})) == "1.5"


def test_loose_tag(tmp_path):
    assert git_version(git(tmp_path, {".git/HEAD": COMMIT, ".git/refs/tags/v1.6": COMMIT})) == "1.6"


def test_tag_elsewhere(tmp_path):
    assert git_version(git(tmp_path, {".git/HEAD": COMMIT, ".git/refs/tags/v1.6": TAG_OBJECT})) == "git-aaaaaaaaaaaa"


def test_worktree(tmp_path):
    main = git(
        tmp_path / "main",
        {
            ".git/worktrees/w/HEAD": "ref: refs/heads/b",
            ".git/worktrees/w/commondir": "../..",
            ".git/refs/heads/b": COMMIT,
        },
    )
    tree = git(tmp_path / "w", {".git": f"gitdir: {main}/.git/worktrees/w\n"})
    assert git_version(tree) == "git-aaaaaaaaaaaa"


@pytest.mark.parametrize("head", ["", "ref: refs/heads/unborn", "nonsense"])
def test_no_commit(tmp_path, head):
    assert git_version(git(tmp_path, {".git/HEAD": head})) is None


def test_no_git(tmp_path):
    assert git_version(tmp_path) is None
