"""Import of P5 template files, on a file of the same shape made here."""

from __future__ import annotations

import pytest

from p5jax.core.errors import UserError
from p5jax.prompts.p5_import import import_p5_templates
from p5jax.prompts.template_files import load_templates

RECORD = """
template = {{}}
'''
Anything may stand in such a string: {{{{user_id}}}}
'''
template['source'] = {source!r}
template['target'] = {target!r}
template['task'] = {task!r}
template['source_argc'] = {source_argc}
template['source_argv'] = {source_argv!r}
template['target_argc'] = {target_argc}
template['target_argv'] = {target_argv!r}
template['id'] = {id!r}

{group}[{id!r}] = template
"""


def record(id, task, source, source_argv, target_argv, target="{}", group="group"):
    """One template as P5 writes it."""
    return RECORD.format(
        id=id,
        task=task,
        source=source,
        target=target,
        source_argv=source_argv.split(),
        target_argv=target_argv.split(),
        source_argc=len(source_argv.split()),
        target_argc=len(target_argv.split()),
        group=group,
    )


FILE = (
    '"""Two groups."""\nall_tasks = {}\ngroup = {}\n'
    + record("1-9", "rating", "Stars of user_{} for item_{} ?", "user_id item_id", "star_rating")
    + record("1-10", "rating", "{} ({{}}) meets {}", "user_desc item_title", "like_dislike")
    + "all_tasks['rating'] = group\nsecond = {}\n"
    + record(
        *("2-1", "sequential", "user_{}’s list : \n {} \n then {} ?"),
        *("user_id visit_history item_id", "yes_no", "{}", "second"),
    )
    + record("2-2", "sequential", "{} : {} next", "user_desc purchase_history", "item_id")
    + record(
        *("3-7", "explanation", "With {} : user_{} on item_{}"),
        *("feature user_id item_id", "star_rating explanation", "{} , {}"),
    )
    + record(
        *("4-1", "review", "{}: \n {}", "user_desc review_body", "review_headline"),
    )
    + record("5-7", "traditional", "user_{} : {}", "user_id candidates", "groundtruth_item_ids")
    + record("5-8", "traditional", "{} or {}", "user_desc candidates", "groundtruth_item_ids")
    + record(
        "Z-1", "zeroshot", "{} new {} {} {}", "user_desc item_title brand price", "like_dislike"
    )
    + record(
        *("Z-2", "zeroshot", "{} user_{} {} {}"),
        *("feature user_id star_rating item_title", "explanation"),
    )
)

# id: (family, inputs, targets, seen, zero_shot), worked out by hand
EXPECTED = {
    "1-9": ("rating", "Stars of {uid} for {iid} ?", "{rating}", True, False),
    "1-10": ("rating", "{udesc} ({{}}) meets {title}", "{like}", False, False),
    "2-1": ("sequential", "{uid}’s list : \n {hist} \n then {item} ?", "{yes_no}", True, False),
    "2-2": ("sequential", "{udesc} : {hist} next", "{item}", False, False),
    "3-7": (
        *("explanation", "With {feature} : {uid} on {iid}"),
        *("{rating} , {explanation}", True, False),
    ),
    "4-1": ("review", "{udesc}: \n {review}", "{headline}", True, False),
    "5-7": ("direct", "{uid} : {cand}", "{item}", True, False),
    "5-8": ("direct", "{udesc} or {cand}", "{item}", False, False),
    "Z-1": ("rating", "{udesc} new {title} {brand} {price}", "{like}", False, True),
    "Z-2": ("explanation", "{feature} {uid} {star} {title}", "{explanation}", False, True),
}


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "all_templates.py"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_every_template_is_mapped(write):
    templates = import_p5_templates(write(FILE))
    found = {
        id: (t.family, t.inputs, t.targets, t.seen, t.zero_shot) for id, t in templates.items()
    }
    assert found == EXPECTED
    assert list(found) == list(EXPECTED)


def test_load_templates_accepts_a_p5_file(write):
    path = write(FILE)
    assert load_templates(path) == import_p5_templates(path)


def test_nothing_is_executed(write, tmp_path):
    mark = tmp_path / "mark"
    with pytest.raises(UserError, match=r"all_templates\.py:1: .*expected"):
        import_p5_templates(write(f"open({str(mark)!r}, 'w').close()\n" + FILE))
    with pytest.raises(UserError, match=r"all_templates\.py:2: .*expected a literal"):
        import_p5_templates(write(f"t = {{}}\nt['id'] = str(open({str(mark)!r}, 'w'))\n"))
    assert not mark.exists()


def line_of(text, needle):
    return text[: text.index(needle)].count("\n") + 1


@pytest.mark.parametrize(
    ("needle", "replacement", "message"),
    [
        ("template['task'] = 'review'", "template['task'] = 'shopping'", "found task 'shopping'"),
        ("['user_desc', 'review_body']", "['user_desc', 'review_mood']", "argument 'review_mood'"),
        ("'user_{} : {}'", "'{} : {}'", None),  # a bare user_id has no counterpart
        ("'{}: \\n {}'", "'{}: \\n'", "found 1 placeholders in source, expected 2"),
        ("'{}: \\n {}'", "'{}: \\n {'", "in source"),
        ("'{}: \\n {}'", "'{}: {0.__class__}'", "found 2 placeholders in source, expected 2 plain"),
        ("'{}: \\n {}'", "42", "found source 42, expected a string"),
        ("template['id'] = '4-1'", "template['id'] = '5-7'", None),
        ("'{} : {} next'", "'{} :{} next'", "expected spaces around it"),
    ],
)
def test_other_shapes_are_refused_with_the_line(write, needle, replacement, message):
    assert needle in FILE
    path = write(FILE.replace(needle, replacement))
    with pytest.raises(UserError) as caught:
        import_p5_templates(path)
    text = str(caught.value)
    assert text.startswith(f"{path}:")
    if message:
        line = line_of(FILE, needle)
        assert text.startswith((f"{path}:{line}:", f"{path}:{line - 1}:"))
        assert message in text
    assert "\n" not in text


def test_counts_must_match(write):
    with pytest.raises(UserError, match="found source_argc 3, expected 2"):
        import_p5_templates(write(FILE.replace("['source_argc'] = 2", "['source_argc'] = 3", 1)))
    with pytest.raises(UserError, match="found target_argc 1, expected 0"):
        import_p5_templates(
            write(FILE.replace("['target_argv'] = ['item_id']", "['target_argv'] = 1.5"))
        )


def test_a_template_without_a_key_is_refused(write):
    text = FILE.replace("template['target_argv'] = ['item_id']\n", "")
    with pytest.raises(UserError, match="without 'target_argv'"):
        import_p5_templates(write(text))


def test_a_template_is_new_and_in_a_group(write):
    """Python would give both ids what was assigned last, and P5 would never see the other."""
    again = "group['2-2'] = template\n" + FILE[FILE.index("template['source'] =") :]
    with pytest.raises(UserError, match=r"found 'source' of template twice, expected template = "):
        import_p5_templates(write(FILE + again))
    left_out = FILE.replace("['1-9'] = template\n", "['1-8'] = template\n")
    with pytest.raises(UserError, match=r"found '1-9' in no group, expected GROUP\['1-9'\] = temp"):
        import_p5_templates(write(left_out))


@pytest.mark.parametrize(
    "text",
    [
        *("template = {", "x = {}\n", "\x00"),
        "t = {}\nt['id'] = " + "-" * 3000 + "1",
        "t = " + "(" * 3000,
        FILE.replace("'{} : {} next'", "'\\ud800 {} : {} next'"),
    ],
)
def test_files_that_are_not_templates(write, text):
    with pytest.raises(UserError, match=r"all_templates\.py"):
        import_p5_templates(write(text))


def test_absent_file(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.py"):
        import_p5_templates(tmp_path / "nowhere.py")
