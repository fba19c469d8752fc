"""What the kernel does with memory, told step by step on the model and on the running kernel."""

from clonal.explain.machines import Side
from clonal.explain.tell import Moment, Story, tell
from clonal.explain.topic import Tell, Topic, UnknownTopic
from clonal.explain.topics import TOPICS, topic

__all__ = ["TOPICS", "Moment", "Side", "Story", "Tell", "Topic", "UnknownTopic", "tell", "topic"]
