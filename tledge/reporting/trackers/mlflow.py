"""A run in MLflow: parameters, metrics of epochs and files, and the report with the exported files as artefacts."""

from __future__ import annotations

import os

from tledge.core.dependencies import require
from tledge.core.errors import RunError
from tledge.reporting.report import Report
from tledge.reporting.trackers import tracked


def to_mlflow(report: Report) -> str:
    """Log a run to where MLflow's own settings say (MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME).

    Without any, that is a database mlflow.db in the working directory. Every call makes one run of MLflow.

    Returns:
        Where it was logged and under which id.

    Raises:
        MissingDependencyError: MLflow is not installed.
        RunError: history.csv is damaged, or MLflow refuses.
    """
    # MLflow tells its vendor how it is used, unless it is told not to.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow = require("mlflow")
    found = tracked(report)
    run = report.run
    try:
        with mlflow.start_run(run_name=run.path.resolve().name) as started:
            mlflow.log_params(found.parameters)
            for epoch, numbers in found.epochs:
                mlflow.log_metrics({f"training/{name}": number for name, number in numbers.items()}, step=epoch)
            for file, numbers in found.files.items():
                mlflow.log_metrics({f"{file}/{name}": number for name, number in numbers.items()})
            for path in (run.page, run.model_card, run.check, run.bench):
                if path.is_file():
                    mlflow.log_artifact(str(path))
            for path in run.artefacts():
                mlflow.log_artifact(str(path), "export")
    except mlflow.exceptions.MlflowException as error:
        lines = str(error).splitlines() or ["it gives no reason"]
        raise RunError(
            f"expected MLflow to take the run at {mlflow.get_tracking_uri()}, but it refuses: {lines[0]}; set "
            "MLFLOW_TRACKING_URI to a store that takes it"
        ) from None
    return f"{mlflow.get_tracking_uri()}, run {started.info.run_id}"
