"""The search: objectives, proposals, evaluations, fronts and what they are compared with."""
