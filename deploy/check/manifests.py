"""Checks the objects of a kustomization: schemas, the operator's rules, and those of this project."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deploy.check.findings import Finding
from deploy.check.fitness import FITNESS_RULES
from deploy.check.kuberay_cluster import CLUSTER_RULES
from deploy.check.kuberay_job import JOB_RULES
from deploy.check.kuberay_service import SERVICE_RULES
from deploy.check.kustomize import Resource
from deploy.check.rules import Case, Rule
from deploy.check.safety import SAFETY_RULES
from deploy.check.schemas import check_schema

RULES: tuple[Rule, ...] = (*CLUSTER_RULES, *JOB_RULES, *SERVICE_RULES, *SAFETY_RULES, *FITNESS_RULES)


def check_objects(resources: Sequence[Resource], crds: Path | None) -> list[Finding]:
    """Return all that is wrong with objects that are applied together.

    Args:
        resources: Rendered, all of a kustomization.
        crds: Folder of KubeRay's CRDs; None leaves out the schemas of its kinds.
    """
    found: list[Finding] = []
    for resource in resources:
        wrong = list(check_schema(resource, crds))
        found += wrong
        # Rules take for granted that lists are lists.
        if not any("must be" in finding.problem for finding in wrong):
            case = Case(resource, tuple(resources))
            found += [finding for each in RULES for finding in each.check(case)]
    return found
