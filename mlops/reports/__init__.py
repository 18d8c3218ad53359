"""Reports as HTML pages: model cards, drift, rollouts and the history of a service."""
