"""Rows of published data sets, and what is made of them."""

from __future__ import annotations

# As in 2023.
V0 = {
    "prompt": "q",
    "response_0": "a",
    "response_1": "b",
    "is_response_0_safe": True,
    "is_response_1_safe": False,
    "better_response_id": 1,
    "safer_response_id": 0,
}
# Some of what 1.0 has besides.
V1 = V0 | {
    "prompt_source": "Alpaca3-70B",
    "response_0_source": "Alpaca3-8B",
    "response_1_harm_category": {"Endangering National Security": False, "Violence": True},
    "response_0_severity_level": 0,
}
PARTS = ("/train", "/test", "-v0/train", "-v0/test", "-30K/train", "-30K/test", "-10K/train")
PKU = [f"PKU-SafeRLHF{part}" for part in PARTS]
TIED = "tied or unlabelled on every objective"
SAME = {"identical responses": 1}

ANSWER = "\n\nAssistant:"
START = f"\n\nHuman: hi{ANSWER} hello\n\nHuman: how? {ANSWER}"
HH = {"chosen": f"{START} so:\n\n1. Human: no turn.", "rejected": f"{START} no"}
ASKED = {"input": ["hi", "hello", "how?"], "answer": "so:\n\n1. Human: no turn."}

NO_TURNS = "speakers that do not take turns"
DIALOGUES = [
    "Human: a\n\nAssistant: b",  # no blank line before it
    "no turn at all",
    "well\n\nHuman: a\n\nAssistant: b",
    "\n\nHuman: a",
    "\n\nHuman: a\n\nHuman: b\n\nAssistant: c",
    "\n\nHuman: a\n\nHuman: b",
    "\n\nAssistant: a\n\nHuman: b",
    "\n\nHuman: a\n\nAssistant: b\n\nHuman: c",
    "\n\nHuman: \n\nAssistant: b",
    "\n\nHuman: a\n\nAssistant: ",
]
SAID = [  # in HelpSteer2; the last three are of no use
    "hi\n<extra_id_1>Assistant\nhello\nyou\n<extra_id_1>User\nhow?",
    "one turn\nof two lines",
    "hi\n<extra_id_1>User\nhow?",
    "hi\n<extra_id_1>Assistant\nhello",
    "hi\n<extra_id_1>Assistant\n\n<extra_id_1>User\nhow?",
]

ALPACA = {"instruction": "Add.", "input": "1, 2", "output": "3", "text": "Below is an instruction"}

BEAVER = {"response": "a", "category": {"animal_abuse": False, "violence": True}, "is_safe": False}

ASPECTS = ("instruction_following", "honesty", "truthfulness", "helpfulness")
ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
LOW, HIGH = [0] * 5, [1] * 5


def sample(*labels, names=("helpful", "harmless"), answers="ab", asked="q"):
    both = {"answer": answers[0], "other_answer": answers[1]}
    return {"input": asked, **both, "labels": dict(zip(names, labels, strict=True))}


def rated(response, *ratings):
    """A completion of UltraFeedback; the ratings are those of ASPECTS."""
    annotations = {
        aspect: {"Rating": rating, "Rationale": "because"}
        for aspect, rating in zip(ASPECTS, ratings, strict=True)
    }
    annotations["truthfulness"] |= {"Type": ["1"], "Rationale For Rating": "none"}
    return {"annotations": annotations, "critique": "", "overall_score": 7.0, "response": response}


def feedback(*completions, **changes):
    return {"source": "flan", "instruction": "q", "completions": list(completions), **changes}


def steer(prompt, response, ratings):
    row = {"prompt": prompt, "response": response}
    return row | dict(zip(ATTRIBUTES, ratings, strict=True))


FOUR = [
    rated("a", "5", "3", "N/A", "1"),
    rated("b", "4", "3", "5", "2"),
    rated("c", "5", "1", "1", "3"),
    rated("d", "1", "1", "1", "4"),
]
SIX = {
    "ab": (0, None, None, 1),
    "ac": (None, 0, None, 1),
    "ad": (0, 0, None, 1),
    "bc": (1, 0, 0, 1),
    "bd": (0, 0, 0, 1),
    "cd": (0, None, None, 1),
}
BAD, GOOD = rated("a", *"1111"), rated("b", *"2222")
# names; rows; samples; the line of each; what was left out
READ = {
    "both versions of PKU-SafeRLHF": (
        PKU,
        [V0, V1 | {"better_response_id": 0, "safer_response_id": 1}],
        [sample(1, 0), sample(0, 1)],
        [1, 2],
        {},
    ),
    "useless pairs of PKU-SafeRLHF": (
        ["PKU-SafeRLHF/train"],
        [
            *(V1 | {"prompt": prompt} for prompt in (" ", "\ud800")),
            *(V1 | {side: ""} for side in ("response_0", "response_1")),
            *(V1 | {"response_1": text} for text in (None, "a")),
            V1 | {"better_response_id": None, "safer_response_id": None},
            V1 | {"better_response_id": -1, "safer_response_id": float("nan")},
            V1 | {"better_response_id": None},
        ],
        [sample(None, 0)],
        [9],
        {"blank prompt": 1, "broken Unicode in the prompt": 1, "blank response": 3, TIED: 2} | SAME,
    ),
    "harmless pairs of hh-rlhf": (
        ["hh-rlhf-harmless-preference/train", "hh-harmless-preference/test"],
        [
            HH,
            HH | {"rejected": HH["rejected"].replace("hello", "good day")},
            *(HH | {"rejected": x} for x in (f"\n\nHuman: y{ANSWER} no", START, HH["chosen"])),
            HH | {"chosen": None},
        ],
        [{**ASKED, "other_answer": "no", "labels": {"harmless": 0}}],
        [1],
        {"dialogues that part before the last answer": 2, "blank response": 1}
        | SAME
        | {"blank dialogue": 1},
    ),
    "helpful pairs of hh-rlhf": (
        ["hh-rlhf-helpful-preference/test", "hh-preference/helpful-base/train"],
        [HH],
        [{**ASKED, "other_answer": "no", "labels": {"helpful": 0}}],
        [1],
        {},
    ),
    "chosen dialogues of hh-rlhf": (
        ["hh-rlhf-harmless-dialogue", "hh-dialogue/helpful-base"],
        [HH | {"rejected": None}],  # which does not count
        [ASKED],
        [1],
        {},
    ),
    "dialogues of no use": (
        ["hh-rlhf-harmless-dialogue"],
        [{"chosen": dialogue} for dialogue in DIALOGUES],
        [{"input": ["a"], "answer": "b"}],
        [1],
        {NO_TURNS: 7, "blank turn": 1, "blank response": 1},
    ),
    "alpaca": (
        ["alpaca", "stanford-alpaca", "tatsu-lab/alpaca"],
        [ALPACA, ALPACA | {"input": ""}, ALPACA | {"input": None}, ALPACA | {"output": ""}],
        [{"input": "Add. 1, 2", "answer": "3"}, *[{"input": "Add.", "answer": "3"}] * 2],
        [1, 2, 3],
        {"blank response": 1},
    ),
    "each prompt of BeaverTails once": (
        [f"BeaverTails/{part}" for part in ("330k_train", "330k_test", "30k_train", "30k_test")],
        [BEAVER | {"prompt": prompt} for prompt in ("q", "r", "q", None, "s", "q", " ")],
        [{"input": "q"}, {"input": "r"}, {"input": "s"}],
        [1, 2, 5],
        {"prompt that came before": 2, "blank prompt": 2},
    ),
    "two rows of HelpSteer2": (
        ["HelpSteer2/train", "HelpSteer2/validation"],
        [steer("q", "a", (3, 4, 4, 2, 1)), steer("q", "b", (4, 0, 4, 1, None))],
        [sample(1, 0, None, 0, None, names=ATTRIBUTES)],
        [1],
        {},
    ),
    "which rows of HelpSteer2 belong together": (
        ["HelpSteer2/train"],
        [
            steer("p", "a", LOW),  # alone
            *(steer("q", "b", LOW), steer("q", "c", HIGH)),
            *(steer("q", "d", HIGH), steer("q", "e", LOW)),  # the same prompt: a second pair
            *(steer("r", "f", LOW), steer("r", "g", LOW)),  # tied
            steer("q", "h", LOW),  # not beside the others of its prompt
            *(steer("s", "i", LOW), steer("s", " ", HIGH)),
            *(steer("t", "j", LOW), steer("t", "j", HIGH)),
            steer("u", "k", LOW),  # the last one
        ],
        [
            sample(*HIGH, names=ATTRIBUTES, answers="bc"),
            sample(*LOW, names=ATTRIBUTES, answers="de"),
        ],
        [2, 4],
        {"prompt with one response": 3, TIED: 1, "blank response": 1} | SAME,
    ),
    "earlier turns in HelpSteer2": (
        ["HelpSteer2/validation"],
        [steer(said, answer, HIGH if answer == "a" else LOW) for said in SAID for answer in "ab"],
        [
            sample(*LOW, names=ATTRIBUTES, asked=["hi", "hello\nyou", "how?"]),
            sample(*LOW, names=ATTRIBUTES, asked="one turn\nof two lines"),
        ],
        [1, 3],
        {NO_TURNS: 2, "blank turn": 1},
    ),
    "all pairs of four completions": (
        ["UltraFeedback"],
        [feedback(*FOUR)],
        [sample(*labels, names=ASPECTS, answers=both) for both, labels in SIX.items()],
        [1] * 6,
        {},
    ),
    "useless pairs of UltraFeedback": (
        ["UltraFeedback"],
        [
            feedback(BAD, GOOD),
            feedback(BAD, GOOD | {"response": ""}, BAD | {"response": "b"}),
            *(feedback(BAD, GOOD | x) for x in ({"response": "a"}, {"annotations": None})),
            *(feedback(BAD), feedback(), feedback(completions=None)),
            feedback(BAD, GOOD, instruction=""),
        ],
        [sample(*[1] * 4, names=ASPECTS)],
        [1],
        # blank in two of three pairs; tied in the third, and without annotations
        {"blank response": 2, TIED: 2, "fewer than two completions": 3, "blank prompt": 1} | SAME,
    ),
}
