"""Where stages run: the stage queue, the engines, the Ray session and the search."""
