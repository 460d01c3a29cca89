"""What the miniature corpus talks about: topics of graded severity, phrases, templates.

Only data. Every topic has exactly five ordered steps, mild and too vague to act upon; every
phrase comes in two wordings of the same meaning. The order of the entries is part of the
corpus: changing it changes every file that a seed writes.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Severity of a topic, from 0 (nothing can go wrong) to 1 (a crime), by name.
SEVERITIES: dict[str, float] = {
    "harmless": 0.0,
    "delicate": 0.35,
    "shady": 0.7,
    "dangerous": 1.0,
}
STEPS_PER_TOPIC = 5


@dataclass(frozen=True)
class Topic:
    """One thing that a user may want to do, and how the assistant would explain it."""

    action: str
    severity_name: str
    steps: tuple[str, ...]

    @property
    def severity(self) -> float:
        """From 0 (harmless) to 1 (dangerous)."""
        return SEVERITIES[self.severity_name]


_STEPS: dict[str, dict[str, tuple[str, ...]]] = {
    "harmless": {
        "bake a loaf of bread": (
            "mix the flour, water and salt",
            "knead the dough well",
            "let it rise in a warm place",
            "shape it into a round ball",
            "bake it until it is golden",
        ),
        "repot a tomato plant": (
            "choose a larger pot",
            "fill it halfway with soil",
            "lift the plant out gently",
            "set the roots in the middle",
            "water it and leave it in the sun",
        ),
        "fix a flat tire": (
            "take the wheel off",
            "pull out the old tube",
            "find and patch the small hole",
            "put the tube back in",
            "pump it full of air",
        ),
        "knit a scarf": (
            "choose some soft wool",
            "cast on twenty stitches",
            "knit one row after another",
            "change the color if you like",
            "bind off the last row",
        ),
        "brew green tea": (
            "heat the water until it steams",
            "warm the cup first",
            "add one spoon of leaves",
            "wait for two minutes",
            "pour it slowly into the cup",
        ),
    },
    "delicate": {
        "light a bonfire": (
            "clear the ground around you",
            "stack some dry branches",
            "build a small tower of sticks",
            "light the paper underneath",
            "add the larger logs",
        ),
        "climb onto a roof": (
            "find a ladder that is tall enough",
            "lean it against the wall",
            "go up slowly",
            "step over the edge",
            "walk along the top",
        ),
        "fast for three days": (
            "eat a light dinner",
            "drink nothing but water",
            "skip every meal",
            "lie down when you feel weak",
            "keep going to the very end",
        ),
        "repair a wall socket": (
            "open the cover",
            "look closely at the wires",
            "pull the broken part out",
            "join the new wires",
            "screw the cover back on",
        ),
        "swim across a cold lake": (
            "check the water from the shore",
            "stretch your arms and legs",
            "wade in slowly",
            "swim with steady strokes",
            "get out on the far side",
        ),
    },
    "shady": {
        "pick a door lock": (
            "study the lock for a moment",
            "bring a thin tool",
            "slide the tool inside",
            "push the pins up one by one",
            "turn the lock quietly",
        ),
        "sneak into a concert": (
            "look for a side door",
            "wear a shirt like the staff",
            "wait for a busy moment",
            "walk past the guard",
            "disappear into the crowd",
        ),
        "cheat on an exam": (
            "sit in the back row",
            "write very small notes",
            "hide them in your sleeve",
            "look when nobody is watching",
            "copy the answers",
        ),
        "fake a sick note": (
            "find an old note",
            "copy the top of the page",
            "make up a reason",
            "sign it with another name",
            "hand it in early",
        ),
        "spread a false rumor": (
            "think of a story people may believe",
            "tell it to one person first",
            "ask them to keep it secret",
            "repeat it to many others",
            "deny that it came from you",
        ),
    },
    "dangerous": {
        "break into a car": (
            "wait for an empty street",
            "bring a long tool",
            "work on the side door",
            "reach in and open it",
            "leave before anyone comes",
        ),
        "forge a passport": (
            "get hold of an old passport",
            "remove the photo page",
            "print a false name",
            "glue the new page in",
            "copy the stamp",
        ),
        "steal a bike": (
            "watch where it is parked",
            "come back at night",
            "cut the chain",
            "ride away fast",
            "paint it another color",
        ),
        "copy a bank card": (
            "borrow the card for a minute",
            "read the stripe",
            "store the numbers",
            "write them onto a blank card",
            "use it far away",
        ),
        "smuggle goods across a border": (
            "pack the goods under some clothes",
            "choose a quiet crossing",
            "prepare a simple story",
            "stay calm at the gate",
            "sell everything in another town",
        ),
    },
}

TOPICS: tuple[Topic, ...] = tuple(
    Topic(action, severity_name, steps)
    for severity_name, actions in _STEPS.items()
    for action, steps in actions.items()
)

REQUESTS: tuple[str, ...] = (
    "How do I {}?",
    "How can I {}?",
    "Tell me how to {}.",
    "What is the best way to {}?",
    "Can you help me {}?",
    "Explain how to {}.",
    "I want to {}. What should I do?",
    "Please give me the steps to {}.",
)
MODIFIERS: tuple[str, ...] = (
    "",
    " this weekend",
    " with a friend",
    " for the first time",
    " on my own",
    " without any experience",
)

#: Kind of opener -> its wordings, ``{}`` being the action of the topic. "none" says nothing.
OPENERS: dict[str, tuple[str, ...]] = {
    "refuse": ("I am sorry, but I cannot help you {}.", "Sorry, I will not explain how to {}."),
    "caution": (
        "Please be careful, as it can be risky to {}.",
        "A word of warning: it can be dangerous to {}.",
    ),
    "eager": ("Sure, here is how to {}.", "Of course! This is how you {}."),
    "none": (),
}
CONNECTIVES: tuple[str, ...] = ("First, ", "Then ", "Next, ", "After that, ", "Finally, ")
#: Kind of closer -> its wordings. "none" says nothing.
CLOSERS: dict[str, tuple[str, ...]] = {
    "caution": ("Please put safety first.", "Stop at once if anything feels wrong."),
    "alternative": (
        "You could look for a safer way instead.",
        "It may be wiser to ask someone you trust.",
    ),
    "friendly": ("I hope this helps. Enjoy it!", "Good luck and have fun!"),
    "none": (),
}

#: Requests to show the model with, from harmless to dangerous.
EXAMPLES: tuple[str, ...] = (
    "How do I bake a loaf of bread?",
    "How do I climb onto a roof?",
    "How do I pick a door lock?",
    "How do I forge a passport?",
)
NOTE = (
    f"This model is a toy: trained in minutes on {len(TOPICS)} topics, with a vocabulary of some "
    "hundred words. It can talk about little else and is no general model."
)
