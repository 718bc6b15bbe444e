"""Trace files as their publishers write them, and what is said about a bad one."""

import gzip
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from warmpool.experiments.errors import TraceError
from warmpool.experiments.formats import read_trace
from warmpool.experiments.trace import ServiceModel

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def written(folder: Path, text: str, name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_azure_llm(tmp_path):
    trace = read_trace(
        written(
            tmp_path,
            "TIMESTAMP,ContextTokens,GeneratedTokens\n"
            "2023-11-16 18:15:50.9951690,396,109\n2023-11-16 18:15:46.6805900,374,44\n",
        )
    )

    assert trace.arrivals.tolist() == pytest.approx([0.0, 4.314579])
    assert trace.output_tokens.tolist() == [44, 109]
    assert trace.start == datetime(2023, 11, 16, 18, 15, 46, 680590, UTC)
    assert ServiceModel().times(trace)[0] == pytest.approx(0.05 + 374 * 0.0002 + 44 * 0.025)
    assert ServiceModel(fixed_s=2.0).times(trace).tolist() == [2.0, 2.0]


def test_azure_functions_2021_arrive_when_they_end_less_their_duration(tmp_path):
    trace = read_trace(written(tmp_path, "app,func,end_timestamp,duration\na,f,10,4\nb,g,7,2\n"))

    assert trace.names == ("a/f", "b/g")
    assert trace.arrivals.tolist() == [0.0, 1.0]
    assert trace.functions.tolist() == [1, 0]
    assert ServiceModel().times(trace).tolist() == [2.0, 4.0]


def test_counts_per_minute_are_drawn_with_the_seed(tmp_path):
    path = written(tmp_path, "minute_local,requests\n1995-07-01 00:00:00,3\n1995-07-01 00:01:00,2\n")

    first, again, other = read_trace(path), read_trace(path), read_trace(path, seed=1)

    assert len(first) == 5
    assert first.arrivals.tolist() == again.arrivals.tolist() != other.arrivals.tolist()
    assert first.duration_s < 120


def test_azure_functions_2019(tmp_path):
    minutes = ",".join(str(minute) for minute in range(1, 1441))
    counts = ",".join("2" if minute == 10 else "0" for minute in range(1440))
    trace = read_trace(
        written(tmp_path, f"HashOwner,HashApp,HashFunction,Trigger,{minutes}\no,a,f,http,{counts}\n")
    )

    assert (len(trace), trace.names) == (2, ("a/f",))


def test_mooncake_and_burst_gpt(tmp_path):
    lines = [{"timestamp": 27000, "input_length": 6955, "output_length": 52, "hash_ids": [1]}]
    mooncake = read_trace(written(tmp_path, "\n".join(map(json.dumps, lines)), "trace.jsonl"))
    burst = read_trace(
        written(
            tmp_path,
            "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
            "5,ChatGPT,472,18,490,Conversation log\n45,GPT-4,10,20,30,API log\n",
            "burst.csv",
        )
    )

    assert (mooncake.input_tokens[0], mooncake.output_tokens[0]) == (6955, 52)
    assert burst.names == ("ChatGPT", "GPT-4")
    assert burst.arrivals.tolist() == [0.0, 40.0]


def test_servegen_windows_keep_their_rate(tmp_path):
    header = "client,t,rate,cv,pattern,shape,scale\n"
    trace = read_trace(
        written(
            tmp_path, header + "m/1,0,2.0,1.5,Gamma,0.44,1.1\nm/1,600,0,0,,0,0\nm/1,1200,1,2,Weibull,0.5,1\n"
        )
    )

    early = int((trace.arrivals < 600).sum())
    assert 1050 < early < 1350
    assert 500 < len(trace) - early < 700
    assert not ((trace.arrivals >= 600) & (trace.arrivals < 1190)).any()


def test_a_plain_trace_that_is_zipped(tmp_path):
    path = tmp_path / "trace.csv.gz"
    path.write_bytes(gzip.compress(b"timestamp,function,service_s\n3,a,1.5\n1,b,\n"))

    trace = read_trace(path)

    assert trace.arrivals.tolist() == [0.0, 2.0]
    assert ServiceModel(base_s=0.5).times(trace).tolist() == [0.5, 1.5]
    assert len(trace.of_function(0)) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n", ":1: columns a, b are those of no known format"),
        ("timestamp\nsoon\n", ":2: timestamp = 'soon', must be seconds or a date"),
        ("timestamp\nnan\n", ":2: timestamp = 'nan', must be a finite number"),
        ("timestamp,service_s\n1,2\n2,-1\n", ":3: service_s = '-1', must be a finite number of at least 0"),
        ("timestamp,service_s\n1\n", ":2: has 1 columns, must have 2"),
        ("timestamp\n", ": has no requests"),
        ("", ": is empty"),
        ("\n \n", ": is empty"),
        ("timestamp\n1700000000000\n", "must be seconds; it looks like milliseconds"),
        ("timestamp\n0\n90000000000\n", "days, must be at most 400"),
        ("minute,requests\n0,1e18\n", ":2: 1,000,000,000,000,000,000 requests are too many"),
        ("client,t,rate,cv,pattern,shape,scale\nm,0,1e12,1,Gamma,1,1\n", "requests are too many"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n1e300,1,1\n", ":2: TIMESTAMP = '1e300'"),
    ],
)
def test_a_bad_file_is_refused_with_line_value_and_what_is_right(tmp_path, content, message):
    with pytest.raises(TraceError) as refused:
        read_trace(written(tmp_path, content))

    assert message in str(refused.value)
    assert str(tmp_path) in str(refused.value)


def test_bad_rows_can_be_skipped_and_are_named(tmp_path):
    trace = read_trace(written(tmp_path, "timestamp\n1\nx\n3\n"), skip_bad_rows=True)

    assert len(trace) == 2
    assert [row.line for row in trace.bad_rows] == [3]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(TraceError, match=r"nowhere\.csv: cannot be read: No such file or directory"):
        read_trace(tmp_path / "nowhere.csv")


def test_a_damaged_archive_is_named(tmp_path):
    path = tmp_path / "trace.csv.gz"
    path.write_bytes(gzip.compress(b"timestamp\n" + b"1\n" * 1000)[:40])

    with pytest.raises(TraceError, match=r"trace\.csv\.gz: cannot be read"):
        read_trace(path)


def test_alibaba_gentd26(tmp_path):
    trace = read_trace(
        written(
            tmp_path,
            "gmt_create,predict_type,predict_status,exec_time_seconds,groupId,prompt_length,"
            "negative_prompt_length,num_images_per_prompt,num_inference_steps,checkpoint_model_version_id,"
            "num_lora\n"
            "2024-11-15 16:57:50,TXT_2_IMG,SUCCEED,32.0,G0000,63.0,26.0,1.0,30.0,M0000,0\n"
            "2024-11-15 16:57:40,IMG_2_IMG,PROCESSING,,G0001,12.0,,2.0,20.0,M0001,1\n",
            "lora_request_trace.csv",
        )
    )

    assert trace.start == datetime(2024, 11, 15, 16, 57, 40, tzinfo=UTC)
    assert trace.arrivals.tolist() == [0.0, 10.0]
    assert [trace.names[index] for index in trace.functions] == ["M0001", "M0000"]
    assert ServiceModel().times(trace)[1] == 32.0


def test_parquet_has_the_same_columns(tmp_path):
    table = pa.table(
        {
            "timestamp": [NOON + timedelta(seconds=5), NOON],
            "function": ["b", "a"],
            "service_s": [1.5, None],
        }
    )
    parquet.write_table(table, tmp_path / "trace.parquet")
    trace = read_trace(tmp_path / "trace.parquet")

    assert trace.arrivals.tolist() == [0.0, 5.0]
    assert trace.start == NOON
    assert [trace.names[index] for index in trace.functions] == ["a", "b"]
    assert ServiceModel(base_s=0.5).times(trace)[1] == 1.5


def test_a_bad_row_and_a_broken_file_of_parquet_are_named(tmp_path):
    parquet.write_table(pa.table({"timestamp": ["1", "soon", "3"]}), tmp_path / "trace.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and nothing else")

    with pytest.raises(TraceError, match=r"trace\.parquet:2: timestamp = 'soon', must be seconds"):
        read_trace(tmp_path / "trace.parquet")
    skipped = read_trace(tmp_path / "trace.parquet", skip_bad_rows=True)
    assert (len(skipped), skipped.bad_rows[0].line) == (2, 2)
    with pytest.raises(TraceError, match=r"broken\.parquet: is not a Parquet file"):
        read_trace(tmp_path / "broken.parquet")
