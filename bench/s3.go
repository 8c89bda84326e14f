//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/stoker-project/stoker/bench/measure"
)

// What the S3 server is told, and its clients.
const (
	s3Key    = "STOKERBENCH"
	s3Secret = "not-a-secret"
	s3Region = "us-east-1"
	s3Bucket = "models"
	s3Prefix = "llama"
)

// s3 compares those who can fetch from a bucket, over loopback.
func (b *bench) s3(ctx context.Context) (_ string, err error) {
	gateway, ok := b.find(b.versitygw, "versitygw", "make servers")
	if !ok {
		return "", skipError("there is no S3 server")
	}
	if err := b.room(ctx, 4*int64(b.size)); err != nil {
		return "", err
	}
	root := filepath.Join(b.work, "s3")
	if err := os.Mkdir(root, 0o755); err != nil {
		return "", err
	}
	server, endpoint, err := startGateway(ctx, gateway, root)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, server.close()) }()
	files, err := b.fillBucket(ctx, endpoint)
	if err != nil {
		return "", err
	}
	contenders := b.s3Contenders(ctx, endpoint, root, files)
	results, err := b.run(ctx, race{contenders: contenders, files: files, server: server, rounds: b.rounds, warmUp: true})
	if err != nil {
		return "", err
	}
	var t table
	t.line("%s in %d objects, %d rounds, from %s. %s.\n\n%s.\n", &b.size, len(files), b.rounds, builtVersion(gateway), b.machine(), versions(results))
	t.costs(results, nameFloor)
	stoker, floor, s5cmd := find(results, nameStoker), find(results, nameFloor), find(results, nameS5cmd)
	t.targets(target{says: "stoker pull, wall / verified floor", measure: stoker.ratios(floor, wall), limit: 1.1})
	t.line("To bare s5cmd: stoker pull %s of its time and %s of its CPU time, the verified floor %s and %s.\n",
		ratio(stoker.ratios(s5cmd, wall)), ratio(stoker.ratios(s5cmd, cpu)), ratio(floor.ratios(s5cmd, wall)), ratio(floor.ratios(s5cmd, cpu)))
	t.failures(b, results)
	return t.String(), nil
}

// s3Contenders are stoker, the two that people use, and one of these beside SHA-256 of
// the bytes, which the server has below root.
func (b *bench) s3Contenders(ctx context.Context, endpoint, root string, files []file) []contender {
	keys := []string{"AWS_ACCESS_KEY_ID=" + s3Key, "AWS_SECRET_ACCESS_KEY=" + s3Secret, "AWS_REGION=" + s3Region, "AWS_EC2_METADATA_DISABLED=true"}
	stoker := b.stokerFrom(ctx, "s3://"+s3Bucket+"/"+s3Prefix, append(keys, "AWS_ENDPOINT_URL_S3="+endpoint)...)
	stoker.verifies = "crc64nvme, sha256 recorded"
	contenders := []contender{stoker}
	if path, ok := b.find(b.s5cmd, "s5cmd", "make bench builds it"); ok {
		var list strings.Builder
		for _, f := range files {
			fmt.Fprintf(&list, "%s\t%s\t%s\n", plainly(filepath.Join(root, s3Bucket, s3Prefix), f.path), f.path, f.sha256)
		}
		one := func(name, verifies, stdin string, before ...string) contender {
			return contender{
				name: name, version: builtVersion(path), verifies: verifies, at: plainly,
				command: func(dir string) measure.Command {
					args := append(before, path, "--endpoint-url", endpoint, "cp", "s3://"+s3Bucket+"/"+s3Prefix+"/*", dir+"/")
					return measure.Command{Args: args, Env: environment(dir, keys...), Stdin: stdin}
				},
			}
		}
		contenders = append(contenders, one(nameS5cmd, "no", ""), one(nameFloor, "sha256 beside", list.String(), b.floor))
	}
	if path, ok := b.find(b.rclone, "rclone", "make bench builds it"); ok {
		contenders = append(contenders, contender{
			name: "rclone", version: builtVersion(path), verifies: "MD5 (ETag)", at: plainly,
			command: func(dir string) measure.Command {
				return measure.Command{
					Args: []string{path, "copy", "bucket:" + s3Bucket + "/" + s3Prefix, dir},
					Env: environment(dir, append(keys, "RCLONE_CONFIG=/dev/null", "RCLONE_CONFIG_BUCKET_TYPE=s3",
						"RCLONE_CONFIG_BUCKET_PROVIDER=Other", "RCLONE_CONFIG_BUCKET_ENV_AUTH=true", "RCLONE_CONFIG_BUCKET_ENDPOINT="+endpoint)...),
				}
			},
		})
	}
	return contenders
}

// startGateway runs the S3 server over a folder and waits until it can be asked.
func startGateway(ctx context.Context, gateway, root string) (*server, string, error) {
	// Between finding a free port and the server's taking it, another may.
	var failed error
	for range 3 {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, "", err
		}
		addr := listener.Addr().String()
		if err := listener.Close(); err != nil {
			return nil, "", err
		}
		args := []string{gateway, "--port", addr, "--access", s3Key, "--secret", s3Secret, "--region", s3Region, "--quiet", "posix", root}
		s, _, err := startServer(ctx, args, environment(root), nil)
		if err != nil {
			return nil, "", err
		}
		if err := reachable(ctx, addr); err != nil {
			failed = errors.Join(err, s.close())
			failed = fmt.Errorf("%w: %s", failed, s.errors.String())
			continue
		}
		return s, "http://" + addr, nil
	}
	return nil, "", fmt.Errorf("start the S3 server: %w", failed)
}

// reachable waits until something listens.
func reachable(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("nothing listens: %w", err)
		case <-tick.C:
		}
	}
}

// fillBucket uploads a model, each file in one piece, as S3's own clients do:
// with a CRC64NVME of the whole.
func (b *bench) fillBucket(ctx context.Context, endpoint string) ([]file, error) {
	b.say("uploading a model of %s", &b.size)
	model := filepath.Join(b.work, "upload")
	files, err := writeModel(ctx, model, b.seed, int64(b.size))
	if err != nil {
		return nil, err
	}
	client := awss3.New(awss3.Options{
		BaseEndpoint: aws.String(endpoint), Region: s3Region, UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(s3Key, s3Secret, ""),
	})
	if _, err := client.CreateBucket(ctx, &awss3.CreateBucketInput{Bucket: aws.String(s3Bucket)}); err != nil {
		return nil, fmt.Errorf("make a bucket: %w", err)
	}
	for _, f := range files {
		if err := upload(ctx, client, filepath.Join(model, filepath.FromSlash(f.path)), s3Prefix+"/"+f.path); err != nil {
			return nil, fmt.Errorf("upload %s: %w", f.path, err)
		}
	}
	return files, os.RemoveAll(model)
}

func upload(ctx context.Context, client *awss3.Client, path, key string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = client.PutObject(ctx, &awss3.PutObjectInput{Bucket: aws.String(s3Bucket), Key: aws.String(key), Body: f, ChecksumAlgorithm: "CRC64NVME"})
	return err
}
