"""The page of a sweep: one file that needs no network and no server, made of records, tables, figures and pictures."""

from gkd_bench.report.page.html import html_page

__all__ = ["html_page"]
