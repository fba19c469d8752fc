"""One scenario, two machines: steps that run on the model and on the real kernel, compared after each."""

from clonal.scenario.compare import Mismatch, Tally, compare
from clonal.scenario.errors import NotModelled, PuppetLost, ScenarioError, UnlikeMachines
from clonal.scenario.kernel import KernelRunner
from clonal.scenario.model import ModelRunner
from clonal.scenario.observation import Observation, Outcome, ProcessView, RegionView, Rss, Shown
from clonal.scenario.pages import Pages
from clonal.scenario.runner import Region, Runner
from clonal.scenario.steps import Scenario, Step, parse

__all__ = [
    "parse",
    "compare",
    "Mismatch",
    "Tally",
    "Scenario",
    "Step",
    "Pages",
    "Runner",
    "ModelRunner",
    "KernelRunner",
    "Observation",
    "Outcome",
    "ProcessView",
    "RegionView",
    "Region",
    "Rss",
    "Shown",
    "ScenarioError",
    "PuppetLost",
    "NotModelled",
    "UnlikeMachines",
]
