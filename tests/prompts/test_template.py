"""Templates as data, and the renderer against brute force."""

from __future__ import annotations

import string
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p5jax.core.errors import UserError
from p5jax.prompts.template import PromptTemplate, Renderer
from p5jax.prompts.template_files import load_templates, save_templates

RATING, YES_NO, LIKE, ITEM = ["rating"], ["yes_no"], ["like"], ["item"]
EXPLANATION, HEADLINE, BOTH = ["explanation"], ["headline"], ["rating", "explanation"]
FACTS = "title brand price"

# Transcribed from the table of P5's prompts: id, input fields in order, target.
AMAZON = [
    ("1-1", "uid iid", RATING),
    ("1-2", "uid title", RATING),
    ("1-3", "uid iid star", YES_NO),
    ("1-4", "uid iid", LIKE),
    ("1-5", "uid iid title", RATING),
    ("1-6", "udesc iid", RATING),
    ("1-7", "udesc title", RATING),
    ("1-8", "udesc star title", YES_NO),
    ("1-9", "udesc title", LIKE),
    ("1-10", "udesc title", RATING),
    ("2-1", "uid hist", ITEM),
    ("2-2", "uid hist", ITEM),
    ("2-3", "uid hist", ITEM),
    ("2-4", "udesc hist", ITEM),
    ("2-5", "udesc hist", ITEM),
    ("2-6", "udesc hist", ITEM),
    ("2-7", "uid hist cand", ITEM),
    ("2-8", "udesc hist cand", ITEM),
    ("2-9", "uid hist cand", ITEM),
    ("2-10", "udesc hist cand", ITEM),
    ("2-11", "uid hist item", YES_NO),
    ("2-12", "udesc hist item", YES_NO),
    ("2-13", "udesc hist", ITEM),
    ("3-1", "uid title", EXPLANATION),
    ("3-2", "headline uid iid", EXPLANATION),
    ("3-3", "uid star title", EXPLANATION),
    ("3-4", "udesc title", EXPLANATION),
    ("3-5", "headline udesc title", EXPLANATION),
    ("3-6", "udesc star iid", EXPLANATION),
    ("3-7", "feature uid iid", BOTH),
    ("3-8", "udesc iid", BOTH),
    ("3-9", "feature uid title", EXPLANATION),
    ("3-10", "feature udesc title", EXPLANATION),
    ("3-11", "feature star uid iid", EXPLANATION),
    ("3-12", "feature star udesc iid", EXPLANATION),
    ("4-1", "uid review", HEADLINE),
    ("4-2", "uid review", RATING),
    ("4-3", "udesc review", HEADLINE),
    ("4-4", "udesc review", RATING),
    ("5-1", "uid iid", YES_NO),
    ("5-2", "iid udesc", YES_NO),
    ("5-3", "udesc title", YES_NO),
    ("5-4", "uid title", YES_NO),
    ("5-5", "udesc cand", ITEM),
    ("5-6", "udesc cand", ITEM),
    ("5-7", "uid cand", ITEM),
    ("5-8", "uid cand", ITEM),
    ("Z-1", f"uid {FACTS}", LIKE),
    ("Z-2", f"udesc {FACTS}", RATING),
    ("Z-3", f"uid {FACTS}", RATING),
    ("Z-4", f"udesc {FACTS}", LIKE),
    ("Z-5", f"udesc {FACTS}", EXPLANATION),
    ("Z-6", f"feature uid star {FACTS}", EXPLANATION),
    ("Z-7", "title udesc", EXPLANATION),
]
# Yelp: explanation without the two headline prompts; review predicts stars only.
YELP = [
    *[row for row in AMAZON if row[0][0] in "125"],
    ("3-1", "uid title", EXPLANATION),
    ("3-2", "uid star title", EXPLANATION),
    ("3-3", "udesc title", EXPLANATION),
    ("3-4", "udesc star iid", EXPLANATION),
    ("3-5", "feature uid iid", BOTH),
    ("3-6", "udesc iid", BOTH),
    ("3-7", "feature uid title", EXPLANATION),
    ("3-8", "feature udesc title", EXPLANATION),
    ("3-9", "feature star uid iid", EXPLANATION),
    ("3-10", "feature star udesc iid", EXPLANATION),
    ("4-1", "uid review", RATING),
    ("4-2", "uid review", RATING),
    ("4-3", "udesc review", RATING),
]
FAMILY = {"1": "rating", "2": "sequential", "3": "explanation", "4": "review", "5": "direct"}
UNSEEN = {
    "amazon": {"1-10", "2-13", "3-12", "4-4", "5-8"},
    "yelp": {"1-10", "2-13", "3-10", "4-3", "5-8"},
}
COUNTS = {
    "amazon": {"rating": 10, "sequential": 13, "explanation": 12, "review": 4, "direct": 8},
    "yelp": {"rating": 10, "sequential": 13, "explanation": 10, "review": 3, "direct": 8},
}


def placeholders(text):
    return [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]


@pytest.mark.parametrize(("name", "table"), [("amazon", AMAZON), ("yelp", YELP)])
def test_shipped_templates_have_p5s_ids_fields_and_marks(name, table):
    templates = load_templates(name)
    assert len(templates) == {"amazon": 47 + 7, "yelp": 44}[name]
    found = {id: (placeholders(t.inputs), placeholders(t.targets)) for id, t in templates.items()}
    assert found == {id: (fields.split(), target) for id, fields, target in table}
    counts = dict.fromkeys(COUNTS[name], 0)
    for id, template in templates.items():
        zero_shot = id.startswith("Z-")
        assert template.id == id
        assert template.zero_shot == zero_shot
        assert template.seen == (not zero_shot and id not in UNSEEN[name])
        if not zero_shot:
            assert template.family == FAMILY[id[0]]
            counts[template.family] += 1
    assert counts == COUNTS[name]
    wordings = [t.inputs for t in templates.values()]
    assert len(set(wordings)) == len(wordings)
    # about as short as the printed ones, the longest of which has 15 words and 2 fields
    assert max(len(t.inputs.split()) for t in templates.values() if not t.zero_shot) <= 24


def test_zero_shot_prompts_belong_to_the_family_of_their_target():
    templates = load_templates("amazon")
    families = {id: t.family for id, t in templates.items() if t.zero_shot}
    assert families == {
        **dict.fromkeys(["Z-1", "Z-2", "Z-3", "Z-4"], "rating"),
        **dict.fromkeys(["Z-5", "Z-6", "Z-7"], "explanation"),
    }


PRINTED = {  # U a user, L a list, T a title, S stars, I an item
    "2-3": "Here is the purchase history list of U : L try to recommend next item to the user",
    "2-13": "According to the purchase history of U : L"
    " Can you recommend the next possible item to the user?",
    "3-1": "Generate an explanation for U about this product : T",
    "3-12": "Generate a S-star explanation for U about I",  # p5jax's also names the feature
    "5-7": "Pick the most suitable item from the following list and recommend to U : L",
    "5-8": "We want to make recommendation for U . Select the best item from these candidates : L",
}


@pytest.mark.parametrize(("id", "printed"), PRINTED.items())
def test_printed_prompts_are_word_for_word(id, printed):
    fields = dict.fromkeys(["uid", "udesc"], "U") | dict.fromkeys(["hist", "cand"], "L")
    fields |= {"title": "T", "star": "S", "iid": "I", "feature": "F"}
    inputs = load_templates("amazon")[id].inputs.format(**fields)
    assert inputs.endswith(printed) if id == "3-12" else inputs == printed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "ratings"}, "found family 'ratings'"),
        ({"inputs": "{uid} {foo}"}, "found {foo} in inputs"),
        ({"inputs": "{uid} {hist}"}, "found {hist} in inputs"),
        ({"targets": "{item}"}, "found {item} in targets"),
        ({"targets": "five"}, "no or repeated placeholders in targets"),
        ({"inputs": "{uid} {uid}"}, "no or repeated placeholders in inputs"),
        ({"inputs": "{uid} {star}"}, "gives {rating} away"),
        ({"inputs": "{uid:>3}"}, "format specification"),
        ({"inputs": "{uid!r}"}, "format specification"),
        ({"inputs": "{uid.__class__}"}, "found {uid.__class__}"),
        ({"inputs": "{uid"}, "expected '}'"),
        ({"targets": "{yes_no}"}, "nothing in inputs to answer"),
        ({"targets": "{told} {yes_no}"}, "found {told} in targets"),
        ({"family": "direct", "targets": "{yes_no} {told}"}, "found {told} in '{yes_no}"),
        ({"zero_shot": True}, "seen zero-shot"),
        ({"family": "sequential", "targets": "{item}", "inputs": "{uid}:{hist}"}, "spaces around"),
        ({"family": "sequential", "targets": "{item}", "inputs": "{hist} {title}"}, "gives {item}"),
        ({"family": "review", "targets": "{headline}", "inputs": "{headline}"}, "gives {headline}"),
    ],
)
def test_bad_templates_are_refused(changes, message):
    values = {"id": "9-9", "family": "rating", "inputs": "{uid} {iid}", "targets": "{rating}"}
    with pytest.raises(UserError) as caught:
        PromptTemplate(**(values | changes))
    assert str(caught.value).startswith("prompt 9-9: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('["1-1"]\nfamily = "rating"\ninputs = "{uid}"\n', ":1: prompt 1-1 has no targets"),
        (
            '# hello\n\n["1-1"]\nfamily = "rating"\ninputs = "{u}"\ntargets = "{rating}"\n',
            ":3: prompt 1-1: found {u}",
        ),
        ('["1-1"]\nfamly = "rating"\n', ":1: found key 'famly'; did you mean family?"),
        ('["1-1"]\nseen = "no"\n', ":1: found seen = 'no', expected a bool"),
        ("a = 1\n", "expected a table per prompt"),
        ("a = = 1\n", "line 1"),
        ("", "found no prompts"),
        (f'["1-1"]\nfamily = {"9" * 5000}\n', "Exceeds the limit (4300 digits)"),
        (f'["1-1"]\nfamily = 0x{"f" * 5000}\n', "found family = a int that is too large to show"),
        ("a = " + "[" * 3000, "found values within values without end"),
    ],
)
def test_bad_files_name_file_and_line(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_templates(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(UserError, match="did you mean amazon"):
        load_templates("amazom")


@pytest.mark.parametrize("name", ["amazon", "yelp"])
def test_saved_templates_load_back(tmp_path, name):
    templates = load_templates(name)
    save_templates(templates, tmp_path / "t.toml")
    assert load_templates(tmp_path / "t.toml") == templates
    assert [path.name for path in tmp_path.iterdir()] == ["t.toml"]


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_any_wording_survives_a_file(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("t") / "t.toml"
    wording = text.replace("{", "{{").replace("}", "}}") + " {uid}"
    template = PromptTemplate("1-1", "rating", wording, "{rating}")
    save_templates({"1-1": template}, path)
    assert load_templates(path) == {"1-1": template}
    assert tomllib.loads(path.read_text(encoding="utf-8"))["1-1"]["inputs"] == wording


class Thirds:
    """A vocabulary of one piece per started three letters of a word."""

    def encode(self, text: str) -> list[int]:
        return [7] * sum(-(-len(word) // 3) for word in text.split())


class Joining(Thirds):
    """As SentencePiece may by rounding: some texts take one piece more than their words do."""

    def encode(self, text: str) -> list[int]:
        return super().encode(text) + [7] * (len(text.split()) % 3 == 2)


SEQUENTIAL = PromptTemplate("2-1", "sequential", "{uid} had {hist} , which follows ?", "{item}")
REVIEW = PromptTemplate("4-2", "review", "{uid} wrote : {review} . How many stars ?", "{rating}")
id_lists = st.lists(st.integers(1, 10**7).map(str), min_size=1, max_size=30)


def length(vocabulary, text):
    return len(vocabulary.encode(text)) + 1


@settings(max_examples=300)
@given(
    history=id_lists,
    separator=st.sampled_from([" , ", " -> "]),
    max_source=st.integers(8, 90),
    user=st.sampled_from(["user_3", "Jörg M.", "someone with a long name"]),
)
def test_history_keeps_its_longest_fitting_end(history, separator, max_source, user):
    vocabulary = Thirds()
    fields = {"uid": user, "hist": history, "separator": separator, "item": "4"}
    texts = [
        f"{user} had {separator.join(history[start:])} , which follows ?"
        for start in range(len(history))
    ]
    fitting = [text for text in texts if length(vocabulary, text) <= max_source]
    if fitting:
        expected = max(fitting, key=len)
        assert Renderer(vocabulary, max_source).render(SEQUENTIAL, fields) == (expected, "4")
        assert fields["hist"] == history  # the caller's list is left alone
    else:
        needed = length(vocabulary, texts[-1])
        message = f"prompt 2-1: needs {needed} tokens, {max_source} are allowed"
        with pytest.raises(UserError, match=message):
            Renderer(vocabulary, max_source).render(SEQUENTIAL, fields)


@given(
    review=st.lists(st.text("abcé", min_size=1, max_size=9), min_size=1, max_size=40),
    max_source=st.integers(20, 70),
)
def test_review_keeps_its_longest_fitting_beginning(review, max_source):
    vocabulary = Thirds()
    texts = [
        f"user_1 wrote : {' '.join(review[:count])} . How many stars ?"
        for count in range(1, len(review) + 1)
    ]
    expected = [text for text in texts if length(vocabulary, text) <= max_source][-1]
    fields = {"uid": "user_1", "review": " ".join(review), "rating": "4"}
    assert Renderer(vocabulary, max_source).render(REVIEW, fields) == (expected, "4")


@given(history=id_lists, max_source=st.integers(12, 60))
def test_the_cap_holds_where_lengths_do_not_add_up(history, max_source):
    vocabulary = Joining()
    fields = {"uid": "Zoë", "hist": history, "separator": " , ", "item": "4"}
    try:
        inputs, _ = Renderer(vocabulary, max_source).render(SEQUENTIAL, fields)
    except UserError:
        assert length(vocabulary, f"Zoë had {history[-1]} , which follows ?") > max_source
    else:
        assert length(vocabulary, inputs) <= max_source
        assert inputs.endswith(" , which follows ?")


def test_headline_and_title_give_way_after_the_review():
    template = PromptTemplate(
        "3-5", "explanation", "{headline} . {udesc} on {title} !", "{explanation}"
    )
    fields = {
        "headline": " ".join(["aaa"] * 10),
        "title": " ".join(["bbb"] * 10),
        "udesc": "Ann",
        "explanation": "fine",
    }
    renderer = Renderer(Thirds(), 19)  # 4 pieces of wording and one end: 14 are left
    assert renderer.inputs(template, fields) == (
        f"{' '.join(['aaa'] * 4)} . Ann on {' '.join(['bbb'] * 10)} !"
    )
    renderer = Renderer(Thirds(), 10)
    assert renderer.inputs(template, fields) == f"aaa . Ann on {' '.join(['bbb'] * 4)} !"


def test_candidates_that_do_not_fit_are_an_error():
    template = load_templates("amazon")["5-7"]
    fields = {"uid": "user_1", "cand": [str(n) for n in range(1000, 1100)], "item": "1000"}
    instruction = "Pick the most suitable item from the following list and recommend to user_1 :"
    needed = length(Thirds(), instruction) + 100 * 2 + 99
    with pytest.raises(UserError, match=f"prompt 5-7: needs {needed} tokens, 256 are allowed"):
        Renderer(Thirds(), 256).render(template, fields)
    inputs, targets = Renderer(Thirds(), needed).render(template, fields)
    assert inputs == f"{instruction} {' , '.join(fields['cand'])}"
    assert targets == "1000"


def test_braces_in_values_are_text():
    fields = {"uid": "{iid}", "review": "{0} {{uid}} {", "rating": "5"}
    inputs, _ = Renderer(Thirds(), 512).render(REVIEW, fields)
    assert inputs == "{iid} wrote : {0} {{uid}} { . How many stars ?"
