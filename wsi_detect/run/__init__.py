"""From slide files to reports: one slide through every stage, and many slides over many processes."""

from wsi_detect.run.batch import Batch, exit_code, run_batch
from wsi_detect.run.config import RunConfig, RunOptions
from wsi_detect.run.slide_list import SlideRow, list_slides
from wsi_detect.run.stages import run_slide

__all__ = ["Batch", "RunConfig", "RunOptions", "SlideRow", "exit_code", "list_slides", "run_batch", "run_slide"]
