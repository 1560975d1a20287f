"""Tars as sources: what a tar holds, its members as byte ranges, class folders packed in tars, WebDataset samples."""
